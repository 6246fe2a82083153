"""Starts a training, and starts it again when it dies; `--help` shows examples."""

from mnv2_hpu.cli.launch import entry_point

if __name__ == "__main__":
  entry_point()
