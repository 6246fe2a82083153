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

from mnv2_hpu.cli import command
from mnv2_hpu.cli.path_flags import define_path

# Fields of `prepare.PreparationOptions`, which has the defaults.
OPTIONS = (
  ("source", flags.DEFINE_string, "image_folder (default), imagenet or tfds."),
  ("tfds_name", flags.DEFINE_string, "For tfds: name[/config][:version]."),
  ("tfds_train_split", flags.DEFINE_string, "For tfds: the split to train on."),
  (
    "validation_fraction",
    flags.DEFINE_float,
    "Fraction of each class to hold out where the input has no validation split (0.1).",
  ),
  ("seed", flags.DEFINE_integer, "Seed of what is held out and of the order (0)."),
  (
    "significant_bits",
    flags.DEFINE_integer,
    "Bits that images of 16 bits per sample use, 8 to 16 (16): 12 scales 0..4095 to "
    "0..255; the export does the same.",
  ),
  ("strict", flags.DEFINE_bool, "Stop at whatever would have to be skipped."),
  ("num_train_shards", flags.DEFINE_integer, "Files; 0: 4 to 1024, by the images."),
  ("num_validation_shards", flags.DEFINE_integer, "Files; 0: 1 to 128, by the images."),
  ("num_processes", flags.DEFINE_integer, "0: one for few images, else one per core."),
)


def define_flags() -> None:
  """Defines the flags."""
  define_path("input_dir", None, "Folder to read (tfds: its data).", required=True)
  define_path("output_dir", None, "Folder to write.", required=True, written=True)
  for name, define, text in OPTIONS:
    define(name, None, text)


def main(argv: Sequence[str]) -> None:
  """Prepares the data set that the flags describe and prints its summary."""
  del argv
  from mnv2_hpu.data_preparation import prepare
  from mnv2_hpu.progress import Progress

  names = prepare.PreparationOptions.__dataclass_fields__
  given = {name: flags.FLAGS[name].value for name in names}
  options = prepare.PreparationOptions(
    **{name: value for name, value in given.items() if value is not None}
  )
  with Progress(unit="image", description="prepare") as progress:
    result = prepare.prepare(options, progress.update_to)
  print(result.summary())


def entry_point() -> None:
  """The console script `mnv2-prepare-data`."""
  command.run(main, define_flags)


if __name__ == "__main__":
  entry_point()
