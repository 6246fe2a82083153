"""Says whether this machine fits, and what to do where it does not."""

from mnv2_hpu.cli.doctor import entry_point

if __name__ == "__main__":
  entry_point()
