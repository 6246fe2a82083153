"""Exports a trained model as SavedModel and TFLite; `--help` shows an example."""

from mnv2_hpu.cli.export import entry_point

if __name__ == "__main__":
  entry_point()
