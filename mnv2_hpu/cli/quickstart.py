"""Trains MobileNetV2 on real handwritten digits, evaluates, exports, shows the result.

  make quickstart               which digit is it?
  make quickstart-detection     where are which digits? SSDLite, in cluttered scenes
  make quickstart-segmentation  which pixels are which digit's? DeepLabv3+, in the same

Every step is a command that you can give yourself, printed before it runs: images
become TFRecords, Model Garden's own driver trains on them, the EMA weights are exported
as SavedModel and TFLite, and both are checked in a process of their own.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mnv2_hpu.cli import command
from mnv2_hpu.cli.path_flags import define_path

_TASKS = ("classification", "detection", "segmentation")


def define_flags() -> None:
  """Defines the flags."""
  flags.DEFINE_enum("task", _TASKS[0], _TASKS, "What is learned.")
  define_path(
    "output_dir",
    None,
    "Folder for everything that is made; build/quickstart, build/quickstart-detection "
    "or build/quickstart-segmentation if not given.",
    written=True,
  )
  flags.DEFINE_float(
    "train_epochs", None, "Length of the training; the gin file's if not given."
  )


def main(argv: Sequence[str]) -> int:
  """Runs the steps, each timed, and prints the table."""
  del argv
  from mnv2_hpu import quickstart

  task = flags.FLAGS.task
  output_dir = Path(flags.FLAGS.output_dir or quickstart.QUICKSTARTS[task].output_dir)
  seconds = quickstart.run(task, output_dir, flags.FLAGS.train_epochs)
  print(f"\n{quickstart.summary(task, output_dir, seconds)}")
  return 0


def entry_point() -> None:
  """The console script `mnv2-quickstart`."""
  command.run(main, define_flags, loads_tensorflow=False)


if __name__ == "__main__":
  entry_point()
