"""Turns images into the TFRecords that training reads.

From an image_folder (one per class), imagenet's archives, or tfds, TensorFlow Datasets:

  mnv2-prepare-data --input_dir=images --output_dir=records
  mnv2-prepare-data --source=imagenet --input_dir=downloads --output_dir=imagenet
  mnv2-prepare-data --source=tfds --tfds_name=cifar10 --input_dir=tfds --output_dir=out

From images with boxes (coco, zips too; voc; yolo), and with masks (cityscapes and
voc_segmentation too); docs/detection_data.md has the layouts:

  mnv2-prepare-data --source=coco --input_dir=coco --output_dir=records
  mnv2-prepare-data --source=masks --input_dir=scenes --output_dir=records

An image that cannot be read is skipped and listed; --strict stops instead. A run that
was interrupted continues when the same command is given again; --shard=1/4 is a part.
--runner has Apache Beam do the parts (docs/input_pipeline.md); its options follow --.
At the end, dataset.json says what there is; mnv2-verify-data checks it.
"""

from collections.abc import Sequence

from absl import flags

from mnv2_hpu.cli import command
from mnv2_hpu.cli.path_flags import define_path

_TEXT, _NUMBER, _SWITCH = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_bool

# Fields of `prepare.PreparationOptions` and `beam.Engine`, which have the defaults.
OPTIONS = (
  ("source", _TEXT, "One of those above; image_folder where it is not given."),
  ("tfds_name", _TEXT, "For tfds: name[/config][:version]."),
  ("tfds_train_split", _TEXT, "For tfds: the split to train on."),
  ("keep_category_ids", _SWITCH, "For boxes: labels are the category ids (COCO's 90)."),
  ("validation_fraction", flags.DEFINE_float, "To hold out without a split (0.1)."),
  ("seed", _NUMBER, "Seed of what is held out and of the order (0)."),
  ("significant_bits", _NUMBER, "Of 16-bit images (16): 12 scales 0..4095 to 0..255."),
  ("max_side", _NUMBER, "Scale larger images down to this longer side (0: keep all)."),
  ("jpeg_quality", _NUMBER, "Quality of the JPEGs that are scaled down (90)."),
  ("strict", _SWITCH, "Stop at whatever would have to be skipped."),
  ("num_train_shards", _NUMBER, "Files; 0: 4 to 1024, by the images."),
  ("num_validation_shards", _NUMBER, "Files; 0: 1 to 128, by the images."),
  ("shard", _TEXT, "I/N: the part of host I of N; then again without, to end."),
  ("num_processes", _NUMBER, "0: one for few images, else one per core."),
  ("runner", _TEXT, "Beam's: direct, flink, spark or dataflow."),
  ("num_parts", _NUMBER, "For --runner: at least one per worker (0: 16)."),
)


def define_flags() -> None:
  """Defines the flags."""
  define_path("input_dir", None, "Folder to read (tfds: its data).", required=True)
  define_path("output_dir", None, "Folder to write.", required=True, written=True)
  for name, define, text in OPTIONS:
    define(name, None, text)


def main(argv: Sequence[str]) -> None:
  """Prepares the data set that the flags describe and prints its summary."""
  from mnv2_hpu.data_preparation import prepare
  from mnv2_hpu.data_preparation.engines import beam
  from mnv2_hpu.progress import Progress

  names = prepare.PreparationOptions.__dataclass_fields__
  given = {n: v for n in names if (v := flags.FLAGS[n].value) is not None}
  options = prepare.PreparationOptions(**given)
  engine = beam.Engine(flags.FLAGS.runner, argv[1:], flags.FLAGS.num_parts)
  with Progress(unit="image", description="prepare") as progress:
    result = beam.prepare(options, engine, progress.update_to)
  print(result.summary())


def entry_point() -> None:
  """The console script `mnv2-prepare-data`."""
  command.run(main, define_flags, takes_arguments=True)


if __name__ == "__main__":
  entry_point()
