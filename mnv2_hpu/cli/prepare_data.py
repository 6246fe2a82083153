"""Turns images into the TFRecords that training reads.

From an image_folder (one per class), imagenet's archives, or tfds, TensorFlow Datasets:

  mnv2-prepare-data --input_dir=images --output_dir=records
  mnv2-prepare-data --source=imagenet --input_dir=downloads --output_dir=imagenet
  mnv2-prepare-data --source=tfds --tfds_name=cifar10 --input_dir=tfds --output_dir=out

From images with boxes (coco, zips too; voc; yolo), and with masks (cityscapes too);
docs/detection_data.md has the layouts:

  mnv2-prepare-data --source=coco --input_dir=coco --output_dir=records
  mnv2-prepare-data --source=masks --input_dir=scenes --output_dir=records
  mnv2-prepare-data --source=voc_segmentation --input_dir=VOCdevkit --output_dir=records

An image that cannot be read is skipped and listed; --strict stops instead. A run that
was interrupted continues when the same command is given again; --shard=1/4 is a part.
At the end, dataset.json says what there is; mnv2-verify-data checks it.
"""

from collections.abc import Sequence

from absl import flags

from mnv2_hpu.cli import command
from mnv2_hpu.cli.path_flags import define_path

_TEXT, _NUMBER = flags.DEFINE_string, flags.DEFINE_integer
_FRACTION, _SWITCH = flags.DEFINE_float, flags.DEFINE_bool

# Fields of `prepare.PreparationOptions`, which has the defaults.
OPTIONS = (
  ("source", _TEXT, "One of those above; image_folder where it is not given."),
  ("tfds_name", _TEXT, "For tfds: name[/config][:version]."),
  ("tfds_train_split", _TEXT, "For tfds: the split to train on."),
  ("keep_category_ids", _SWITCH, "For boxes: labels are the category ids (COCO's 90)."),
  ("validation_fraction", _FRACTION, "What to hold out where no split is given (0.1)."),
  ("seed", _NUMBER, "Seed of what is held out and of the order (0)."),
  ("significant_bits", _NUMBER, "Of 16-bit images (16): 12 scales 0..4095 to 0..255."),
  ("max_side", _NUMBER, "Scale larger images down to this longer side (0: keep all)."),
  ("jpeg_quality", _NUMBER, "Quality of the JPEGs that are scaled down (90)."),
  ("strict", _SWITCH, "Stop at whatever would have to be skipped."),
  ("num_train_shards", _NUMBER, "Files; 0: 4 to 1024, by the images."),
  ("num_validation_shards", _NUMBER, "Files; 0: 1 to 128, by the images."),
  ("shard", _TEXT, "I/N: the part of host I of N; then again without, to end."),
  ("num_processes", _NUMBER, "0: one for few images, else one per core."),
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
