"""Writes the report of a training run; `--help` shows an example."""

from mnv2_hpu.cli.report import entry_point

if __name__ == "__main__":
  entry_point()
