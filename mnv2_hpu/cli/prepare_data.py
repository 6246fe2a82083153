"""Turns images into the TFRecords that training reads.

A folder of images with one folder per class (a tenth of each is held out); ImageNet
from its archives, which are not unpacked; a set of TensorFlow Datasets:

  mnv2-prepare-data --input_dir=images --output_dir=records
  mnv2-prepare-data --source=imagenet --input_dir=downloads --output_dir=imagenet
  mnv2-prepare-data --source=tfds --tfds_name=cifar10 --input_dir=tfds --output_dir=out

An image that cannot be read is skipped and listed; --strict stops instead. A run that
was interrupted continues when the same command is given again. At the end, dataset.json
in the output folder says what there is; mnv2-verify-data checks it.
"""

from collections.abc import Sequence

from absl import flags

from mnv2_hpu.cli import main as cli_main
from mnv2_hpu.cli import process
from mnv2_hpu.data_preparation import prepare, sources, summary
from mnv2_hpu.progress import Progress

_DEFAULTS = prepare.PreparationOptions(input_dir="", output_dir="")


def define_flags() -> None:
  """Defines the flags; each is a field of `prepare.PreparationOptions`."""
  flags.DEFINE_string(
    "source", _DEFAULTS.source, f"What the input is: {', '.join(sources.SOURCES)}."
  )
  flags.DEFINE_string(
    "input_dir", None, "Folder to read; for tfds its data folder.", required=True
  )
  flags.DEFINE_string(
    "tfds_name", _DEFAULTS.tfds_name, "For --source=tfds: name[/config][:version]."
  )
  flags.DEFINE_string(
    "tfds_train_split",
    _DEFAULTS.tfds_train_split,
    "For --source=tfds: the split to train on.",
  )
  flags.DEFINE_string("output_dir", None, "Folder to write, outside the input.")
  flags.mark_flag_as_required("output_dir")
  flags.DEFINE_float(
    "validation_fraction",
    _DEFAULTS.validation_fraction,
    "Share of each class to hold out, where the input has no validation split.",
  )
  flags.DEFINE_integer(
    "seed", _DEFAULTS.seed, "Seed of what is held out and of the order of the records."
  )
  flags.DEFINE_boolean(
    "strict", _DEFAULTS.strict, "Stop at whatever would have to be skipped."
  )
  flags.DEFINE_integer(
    "num_train_shards",
    _DEFAULTS.num_train_shards,
    "Files of the training split; 0: one per 1,000 images, 4 to 1024 (ImageNet: 1024).",
  )
  flags.DEFINE_integer(
    "num_validation_shards",
    _DEFAULTS.num_validation_shards,
    "Files of the validation split; 0: one per 1,000 images, 1 to 128 (ImageNet: 128).",
  )
  flags.DEFINE_integer(
    "num_processes",
    _DEFAULTS.num_processes,
    "Processes that write; 0: one for few images, otherwise one per processor.",
  )


def main(argv: Sequence[str]) -> None:
  """Prepares the data set that the flags describe and prints its summary."""
  del argv
  names = prepare.PreparationOptions.__dataclass_fields__
  options = prepare.PreparationOptions(
    **{name: flags.FLAGS[name].value for name in names}
  )
  with Progress(unit="image", description="prepare") as progress:
    result = prepare.prepare(options, progress.update_to)
  print(summary.summary(result))


def entry_point() -> None:
  """The console script `mnv2-prepare-data`."""
  process.set_up()
  define_flags()
  cli_main.run(main)


if __name__ == "__main__":
  entry_point()
