"""Turns images into TFRecords; `--help` shows an example."""

from mnv2_hpu.cli.prepare_data import entry_point

if __name__ == "__main__":
  entry_point()
