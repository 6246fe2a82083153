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


def define_flags() -> None:
  """Defines the flags: fields of `prepare.PreparationOptions`, which has defaults."""
  flags.DEFINE_string(
    "source", None, "What the input is: image_folder (default), imagenet, tfds."
  )
  define_path(
    "input_dir", None, "Folder to read; for tfds its data folder.", required=True
  )
  define_path("output_dir", None, "Folder to write.", required=True, written=True)
  flags.DEFINE_string("tfds_name", None, "For tfds: name[/config][:version].")
  flags.DEFINE_string("tfds_train_split", None, "For tfds: the split to train on.")
  flags.DEFINE_float(
    "validation_fraction",
    None,
    "Fraction of each class to hold out where the input has no validation split (0.1).",
  )
  flags.DEFINE_integer(
    "seed", None, "Seed of what is held out and of the order of the records (0)."
  )
  flags.DEFINE_integer(
    "significant_bits",
    None,
    "Bits that images of 16 bits per sample use, 8 to 16 (16): 12 scales 0..4095 to "
    "0..255; the export does the same.",
  )
  flags.DEFINE_boolean("strict", None, "Stop at whatever would have to be skipped.")
  for split, most in (("train", "4 to 1024"), ("validation", "1 to 128")):
    flags.DEFINE_integer(
      f"num_{split}_shards",
      None,
      f"Files of the {split} split; 0 (default): one per 1,000 images, {most}.",
    )
  flags.DEFINE_integer(
    "num_processes",
    None,
    "Processes that write; 0 (default): one for few images, else one per processor.",
  )


def main(argv: Sequence[str]) -> None:
  """Prepares the data set that the flags describe and prints its summary."""
  del argv
  from mnv2_hpu.data_preparation import prepare, summary
  from mnv2_hpu.progress import Progress

  names = prepare.PreparationOptions.__dataclass_fields__
  given = {name: flags.FLAGS[name].value for name in names}
  options = prepare.PreparationOptions(
    **{name: value for name, value in given.items() if value is not None}
  )
  with Progress(unit="image", description="prepare") as progress:
    result = prepare.prepare(options, progress.update_to)
  print(summary.summary(result))


def entry_point() -> None:
  """The console script `mnv2-prepare-data`."""
  command.run(main, define_flags)


if __name__ == "__main__":
  entry_point()
