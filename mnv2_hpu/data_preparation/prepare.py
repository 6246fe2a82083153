"""From a source to a prepared data set: list, plan, write the shards, summarize."""

import dataclasses
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mnv2_hpu
from mnv2_hpu.data_preparation import (
  image_folder,
  imagenet,
  shards,
  summary,
  tfds,
  workers,
  workspace,
)
from mnv2_hpu.data_preparation.annotations import (
  cityscapes,
  coco,
  mask_folder,
  voc,
  voc_segmentation,
  yolo,
)
from mnv2_hpu.data_preparation.listing import Listing, SourceOptions, check_names
from mnv2_hpu.data_preparation.shards import printable
from mnv2_hpu.data_preparation.shrinking import Shrinking
from mnv2_hpu.data_preparation.summary import PartResult, PreparationResult
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo
from mnv2_hpu.errors import UserError, did_you_mean

# What data can be prepared from; a new one is one more row.
SOURCES: dict[str, Callable[[SourceOptions], Listing]] = {
  image_folder.NAME: image_folder.list_image_folder,
  imagenet.NAME: imagenet.list_imagenet,
  tfds.NAME: tfds.list_tfds,
  coco.NAME: coco.list_coco,
  voc.NAME: voc.list_voc,
  yolo.NAME: yolo.list_yolo,
  mask_folder.NAME: mask_folder.list_masks,
  voc_segmentation.NAME: voc_segmentation.list_voc_segmentation,
  cityscapes.NAME: cityscapes.list_cityscapes,
}


@dataclasses.dataclass(frozen=True)
class PreparationOptions:
  """What to prepare, and how.

  Attributes:
    input_dir: Folder of the source's files.
    output_dir: Folder for the shards and dataset.json.
    source: A name of `SOURCES`.
    validation_fraction: Fraction of each class to hold out, where the input has no
      validation split of its own.
    seed: Seed of that choice and of the order of the records.
    strict: Whether a bad image stops the preparation instead of being skipped.
    num_train_shards: Training files; 0 chooses: what the source is usually divided into
      (ImageNet: 1024), else one per 1,000 images, 4 to 1024.
    num_validation_shards: Validation files; 0 chooses: likewise (ImageNet: 128), 1 to
      128.
    num_processes: Processes that write; 0 chooses: one for few images, otherwise one
      per processor.
    tfds_name: Name of the data set, for the source `tfds`.
    tfds_train_split: Its split to train on.
    significant_bits: Bits that 16-bit images use, 8 to 16: 12 scales 0..4095 to 0..255.
    max_side: Pixels that the longer side of an image keeps at most; 0 keeps all.
    jpeg_quality: Quality of the JPEGs that are scaled down; 0 is 90.
    keep_category_ids: Whether the labels of boxes are the input's own category ids (1
      to 90 of COCO), in place of 1 to the number of categories.
    shard: `3/16` writes what the third of 16 hosts has to; the same options without it
      write what is missing then, and dataset.json. Empty writes all.
  """

  input_dir: str
  output_dir: str
  source: str = "image_folder"
  validation_fraction: float = 0.1
  seed: int = 0
  strict: bool = False
  num_train_shards: int = 0
  num_validation_shards: int = 0
  num_processes: int = 0
  tfds_name: str = ""
  tfds_train_split: str = "train"
  significant_bits: int = 16
  max_side: int = 0
  jpeg_quality: int = 0
  keep_category_ids: bool = False
  shard: str = ""


def prepare(
  options: PreparationOptions,
  report_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PreparationResult | PartResult:
  """Prepares a data set; resumes an unfinished one; leaves a finished one alone.

  The same input and options give the same bytes, on any number of processes and hosts.

  Args:
    options: What to prepare, and how.
    report_progress: Called with (images done, images in all) as each shard is finished.

  Raises:
    UserError: If the input or an option cannot serve (see the sources, `workspace` and
      `shards`), if there are fewer than two classes or more shards than images, if a
      shard has no readable image or a class none to train on, or if the disk is full.
  """
  start = time.monotonic()
  _check_options(options)
  output_dir, part = Path(options.output_dir), workspace.Part.parse(options.shard)
  try:
    with workspace.lock(output_dir, part) as work:
      listing = list_source(options.source, _source_options(options))
      _shrinking(options).check(listing.task)
      _check_classes(options, listing)
      plan = _plan(options, listing)
      if workspace.is_finished(output_dir, plan):
        work.finish()
        info = DatasetInfo.load(output_dir)
        return PreparationResult(info, options.output_dir, 0, listing.num_images, 0.0)
      work.start_or_resume(plan)
      tasks = _tasks(options, listing, plan["shards"], work)
      if part:
        tasks = tasks[part.number - 1 :: part.of]
      num_images = sum(len(task.source_images) for task in tasks)
      num_kept = _write_missing(options, num_images, tasks, work, report_progress)
      num_written = num_images - num_kept
      if part:
        return PartResult(
          *(part, options.output_dir, len(tasks), num_written, num_kept),
          time.monotonic() - start,
        )
      info = summary.summarize(listing, plan, work)
      info.save(output_dir)
      work.finish()
  except OSError as error:
    raise UserError(
      f"--input_dir={options.input_dir} cannot be prepared into {output_dir}: {error}. "
      "Free some space there if it is full, or fix the input, then run the same "
      "command again: the shards already finished are kept."
    ) from error
  seconds = time.monotonic() - start
  return PreparationResult(info, options.output_dir, num_written, num_kept, seconds)


def list_source(source: str, options: SourceOptions) -> Listing:
  """Lists what a source offers.

  Raises:
    UserError: If the source is unknown, or its input is not as it should be.
  """
  if source not in SOURCES:
    raise UserError(
      f"--source={source} is not a source. {did_you_mean(source, SOURCES)}"
    )
  if options.tfds_name and source != tfds.NAME:
    raise UserError(
      f"--tfds_name={options.tfds_name} belongs to --source={tfds.NAME}, but "
      f"--source={source} is given."
    )
  return SOURCES[source](options)


def _source_options(options: PreparationOptions) -> SourceOptions:
  names = [field.name for field in dataclasses.fields(SourceOptions)]
  return SourceOptions(**{name: getattr(options, name) for name in names})


def _check_options(options: PreparationOptions) -> None:
  if not 8 <= options.significant_bits <= 16:
    raise UserError(
      f"--significant_bits={options.significant_bits}: allowed are 8 to 16, the bits "
      "that 16-bit images use."
    )
  check_names("folder", [options.input_dir, options.output_dir])
  inputs, outputs = Path(options.input_dir), Path(options.output_dir)
  # Not `Path.resolve`, which fails at a link to itself.
  if Path(os.path.realpath(outputs)).is_relative_to(os.path.realpath(inputs)):
    raise UserError(
      f"--output_dir={outputs} lies in --input_dir={inputs}: the shards would be taken "
      "for input. Choose a folder outside."
    )


def _check_classes(options: PreparationOptions, listing: Listing) -> None:
  names = listing.label_names
  check_names("class", names)
  labels = summary.used_labels(listing)
  if listing.task == "classification" and len(labels) < 2:
    raise UserError(
      f"--input_dir={options.input_dir} has one class, {names[labels[0]]!r}: there is "
      "nothing to learn. Give it the images of two classes or more."
    )


def _plan(options: PreparationOptions, listing: Listing) -> dict[str, Any]:
  """Returns everything that decides the bytes of the shards, as JSON values."""
  if options.strict:
    _check_nothing_left_out(listing)
  return {
    "source": listing.source,
    "source_checksum": listing.checksum,
    "seed": options.seed,
    "validation_fraction": listing.validation_fraction,
    "strict": options.strict,
    "significant_bits": options.significant_bits,
    "max_side": options.max_side,
    "jpeg_quality": _shrinking(options).quality,
    "shards": {
      split: shards.choose_num_shards(
        split,
        len(images),
        requested=getattr(options, f"num_{split}_shards"),
        usual=listing.num_shards.get(split),
      )
      for split, images in listing.splits.items()
    },
    "tool_version": mnv2_hpu.__version__,
  }


def _shrinking(options: PreparationOptions) -> Shrinking:
  return Shrinking(options.max_side, options.jpeg_quality)


def _check_nothing_left_out(listing: Listing) -> None:
  left_out = [(entry["file"], entry["reason"]) for entry in listing.skipped]
  left_out += [(file, kind) for kind, (_, file) in listing.dropped.items()]
  for file, reason in left_out[:1]:
    raise UserError(
      f"{printable(file)}: {reason}. Fix or remove it, or leave --strict out to skip "
      "it."
    )


def _tasks(
  options: PreparationOptions,
  listing: Listing,
  num_shards: Mapping[str, int],
  work: workspace.Workspace,
) -> list[shards.ShardTask]:
  """Decides what each shard holds."""
  tasks = []
  for split, images in listing.splits.items():
    shuffled = list(images)
    random.Random(f"{options.seed}:{split}").shuffle(shuffled)
    tasks += [
      shards.ShardTask(
        path=str(work.output_dir / name),
        report_path=str(work.report_path(name)),
        source_images=shuffled[shard :: num_shards[split]],
        label_names=listing.label_names,
        read=listing.read,
        serialize=listing.serialize,
        jpeg_only=listing.jpeg_only,
        strict=options.strict,
        significant_bits=options.significant_bits,
        shrinking=_shrinking(options),
      )
      for shard, name in enumerate(shards.shard_names(split, num_shards[split]))
    ]
  return tasks


def _write_missing(
  options: PreparationOptions,
  num_images: int,
  tasks: Sequence[shards.ShardTask],
  work: workspace.Workspace,
  report_progress: Callable[[int, int], None],
) -> int:
  """Writes the shards that are not finished; returns the images in those that were."""
  missing = [task for task in tasks if not work.is_finished(Path(task.path).name)]
  to_write = sum(len(task.source_images) for task in missing)
  kept = done = num_images - to_write
  report_progress(done, num_images)
  processes = workers.choose_processes(options.num_processes, len(missing), to_write)
  for task, _ in workers.run(shards.write_shard, missing, processes):
    done += len(task.source_images)
    report_progress(done, num_images)
  return kept
