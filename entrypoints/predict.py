"""Predicts the classes of image files; `--help` shows an example."""

from mnv2_hpu.cli.predict import entry_point

if __name__ == "__main__":
  entry_point()
