"""Trains or evaluates an experiment; `--help` shows an example."""

from mnv2_hpu.cli.train import entry_point

if __name__ == "__main__":
  entry_point()
