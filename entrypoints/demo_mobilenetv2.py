"""Trains or evaluates with the flags of Habana's launcher; see `--help`."""

from mnv2_hpu.cli.demo_mobilenetv2 import entry_point

if __name__ == "__main__":
  entry_point()
