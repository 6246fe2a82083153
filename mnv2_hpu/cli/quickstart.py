"""Trains MobileNetV2 on real handwritten digits, evaluates, exports, shows the result.

  make quickstart

Every step is a command that you can give yourself, printed before it runs: a folder of
images becomes TFRecords, Model Garden's own driver trains on them, the EMA weights
are exported as SavedModel and TFLite, and both are checked in a process of their own.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mnv2_hpu.cli import command
from mnv2_hpu.cli.path_flags import define_path


def define_flags() -> None:
  """Defines the flags."""
  define_path(
    "output_dir",
    "build/quickstart",
    "Folder for everything that is made.",
    written=True,
  )
  flags.DEFINE_float(
    "train_epochs", None, "Length of the training; the gin file's if not given."
  )


def main(argv: Sequence[str]) -> int:
  """Runs the steps, each timed, and prints the table."""
  del argv
  from mnv2_hpu import quickstart

  output_dir = Path(flags.FLAGS.output_dir)
  seconds = quickstart.run(output_dir, flags.FLAGS.train_epochs)
  print(f"\n{quickstart.summary(output_dir, seconds)}")
  return 0


def entry_point() -> None:
  """The console script `mnv2-quickstart`."""
  command.run(main, define_flags, loads_tensorflow=False)


if __name__ == "__main__":
  entry_point()
