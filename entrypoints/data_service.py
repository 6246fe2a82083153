"""Starts the processes of a tf.data service; `--help` shows examples."""

from mnv2_hpu.cli.data_service import entry_point

if __name__ == "__main__":
  entry_point()
