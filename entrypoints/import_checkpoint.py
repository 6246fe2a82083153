"""Imports a slim checkpoint of TensorFlow 1; `--help` shows an example."""

from mnv2_hpu.cli.import_checkpoint import entry_point

if __name__ == "__main__":
  entry_point()
