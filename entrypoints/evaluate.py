"""Evaluates a training run, once or as a sidecar; `--help` shows an example."""

from mnv2_hpu.cli.evaluate import entry_point

if __name__ == "__main__":
  entry_point()
