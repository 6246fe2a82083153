"""From a source to a prepared data set: list, plan, write the shards, sum up."""

import dataclasses
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mnv2_hpu
from mnv2_hpu.data_preparation import (
  image_warnings,
  shards,
  sources,
  workers,
  workspace,
)
from mnv2_hpu.data_preparation.listing import Listing, SourceOptions
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo, SplitInfo
from mnv2_hpu.errors import UserError

_IMAGES_PER_SHARD = 1_000
_AUTOMATIC_SHARDS = {"train": (4, 1024), "validation": (1, 128)}  # (least, most)
_FEWEST_IMAGES_PER_SHARD = 10  # when the number of shards is chosen here


@dataclasses.dataclass(frozen=True)
class PreparationOptions:
  """What to prepare, and how.

  Attributes:
    input_dir: where the source's files are.
    output_dir: where the shards and dataset.json go.
    source: a name of `sources.SOURCES`.
    validation_fraction: share of each class to hold out, where the input has no
      validation split of its own.
    seed: of that choice and of the order of the records.
    strict: whether a bad image stops the preparation instead of being skipped.
    num_train_shards: 0 chooses: what the source is usually divided into (ImageNet:
      1024), else one per 1,000 images, 4 to 1024.
    num_validation_shards: 0 chooses: likewise (ImageNet: 128), 1 to 128.
    num_processes: 0 chooses: one for few images, otherwise one per processor.
    tfds_name: the data set, for the source `tfds`.
    tfds_train_split: its split to train on.
    significant_bits: Bits that 16-bit images use, 8 to 16: 12 scales 0..4095 to 0..255.
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


@dataclasses.dataclass(frozen=True)
class PreparationResult:
  """What was prepared.

  Attributes:
    info: the content of dataset.json.
    output_dir: the data set's folder.
    num_written: images read by this run; 0 where the data set was there already.
    num_kept: images in shards that an earlier, unfinished run had written.
    seconds: that this run took.
  """

  info: DatasetInfo
  output_dir: str
  num_written: int
  num_kept: int
  seconds: float


def prepare(
  options: PreparationOptions,
  report_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PreparationResult:
  """Prepares a data set; continues an unfinished one; leaves a finished one alone.

  The same input and options give the same bytes, on any number of processes.

  Args:
    options: what and how.
    report_progress: is told (images done, images in all) as each shard is finished.

  Raises:
    UserError: see `sources`, `workspace` and `shards`; a split without one
      readable image; more shards than images.
  """
  start = time.monotonic()
  _check_options(options)
  output_dir = Path(options.output_dir)
  with workspace.lock(output_dir) as work:
    listing = sources.list_source(options.source, _source_options(options))
    plan = _plan(options, listing)
    if workspace.check_finished(output_dir, plan):
      work.finish()
      info = DatasetInfo.load(output_dir)
      return PreparationResult(info, options.output_dir, 0, listing.num_images, 0.0)
    work.start_or_resume(plan)
    tasks = _tasks(options, listing, plan["shards"], work)
    kept = _write_missing(options, listing, tasks, work, report_progress)
    info = _summarize(options, listing, plan["shards"], work)
    info.save(output_dir)
    work.finish()
    written = listing.num_images - kept
  seconds = time.monotonic() - start
  return PreparationResult(info, options.output_dir, written, kept, seconds)


def _source_options(options: PreparationOptions) -> SourceOptions:
  return SourceOptions(
    input_dir=options.input_dir,
    validation_fraction=options.validation_fraction,
    seed=options.seed,
    tfds_name=options.tfds_name,
    tfds_train_split=options.tfds_train_split,
  )


def _check_options(options: PreparationOptions) -> None:
  if not 8 <= options.significant_bits <= 16:
    raise UserError(
      f"--significant_bits={options.significant_bits}: allowed are 8 to 16, the bits "
      "that 16-bit images use."
    )
  inputs, outputs = Path(options.input_dir), Path(options.output_dir)
  if outputs.resolve().is_relative_to(inputs.resolve()):
    raise UserError(
      f"--output_dir={outputs} lies in --input_dir={inputs}: the shards would be taken "
      "for input. Choose a folder outside."
    )


def _plan(options: PreparationOptions, listing: Listing) -> dict[str, Any]:
  """Returns everything that decides the bytes of the shards, as JSON values."""
  if options.strict and listing.skipped:
    first = listing.skipped[0]
    raise UserError(
      f"{shards.printable(first['file'])}: {first['reason']}. Mend or remove "
      "it, or leave --strict out to skip it."
    )
  return {
    "source": listing.source,
    "source_checksum": listing.checksum,
    "seed": options.seed,
    "validation_fraction": listing.validation_fraction,
    "strict": options.strict,
    "significant_bits": options.significant_bits,
    "shards": {
      split: _num_shards(split, len(images), requested, listing.num_shards.get(split))
      for split, images in listing.splits.items()
      for requested in [getattr(options, f"num_{split}_shards")]
    },
    "tool_version": mnv2_hpu.__version__,
  }


def _num_shards(split: str, num_images: int, requested: int, usual: int | None) -> int:
  if requested < 0 or requested > num_images:
    raise UserError(
      f"--num_{split}_shards={requested} does not suit {num_images} images: allowed "
      f"are 1 to {num_images}, or 0 to have the number chosen."
    )
  if requested:
    return requested
  least, most = _AUTOMATIC_SHARDS[split]
  wanted = usual or min(max(-(-num_images // _IMAGES_PER_SHARD), least), most)
  return max(min(wanted, num_images // _FEWEST_IMAGES_PER_SHARD), 1)


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
      )
      for shard, name in enumerate(shards.shard_names(split, num_shards[split]))
    ]
  return tasks


def _write_missing(
  options: PreparationOptions,
  listing: Listing,
  tasks: Sequence[shards.ShardTask],
  work: workspace.Workspace,
  report_progress: Callable[[int, int], None],
) -> int:
  """Writes the shards that are not finished; returns the images in those that were."""
  missing = [task for task in tasks if not work.is_finished(Path(task.path).name)]
  to_write = sum(len(task.source_images) for task in missing)
  kept = done = listing.num_images - to_write
  report_progress(done, listing.num_images)
  processes = workers.choose_processes(options.num_processes, len(missing), to_write)
  for task, _ in workers.run(shards.write_shard, missing, processes):
    done += len(task.source_images)
    report_progress(done, listing.num_images)
  return kept


def _summarize(
  options: PreparationOptions,
  listing: Listing,
  num_shards: Mapping[str, int],
  work: workspace.Workspace,
) -> DatasetInfo:
  skipped = [
    {"file": shards.printable(entry["file"]), "reason": entry["reason"]}
    for entry in listing.skipped
  ]
  label_names = [shards.printable(name) for name in listing.label_names]
  converted: list[dict[str, str]] = []
  bits_used: dict[str, int] = {}
  num_oriented = 0
  splits = {}
  for split, count in num_shards.items():
    per_class = [0] * len(listing.label_names)
    for name in shards.shard_names(split, count):
      report = shards.ShardReport.load(work.report_path(name))
      if not any(report.examples_per_class):
        raise UserError(
          f"none of the images of {name} can be read; the first: "
          f"{report.skipped[0]['file']}: {report.skipped[0]['reason']}. Mend the input "
          f"or ask for fewer shards, then delete {work.output_dir} and run again."
        )
      per_class = [
        a + b for a, b in zip(per_class, report.examples_per_class, strict=True)
      ]
      skipped += report.skipped
      converted += report.converted
      num_oriented += sum(report.oriented_per_class)
      for name, bits in zip(label_names, report.bits_used, strict=True):
        if bits:
          bits_used[name] = max(bits_used.get(name, 0), bits)
    pattern = f"{split}-*-of-{count:05d}"
    splits[split] = SplitInfo(sum(per_class), count, pattern, per_class)
  return DatasetInfo(
    source=listing.source,
    label_names=label_names,
    num_classes=len(listing.label_names),
    splits=splits,
    skipped=sorted(skipped, key=lambda entry: entry["file"]),
    converted=sorted(converted, key=lambda entry: entry["file"]),
    seed=options.seed,
    validation_fraction=listing.validation_fraction,
    source_checksum=listing.checksum,
    tool_version=mnv2_hpu.__version__,
    significant_bits=options.significant_bits,
    warnings=[
      *listing.warnings,
      *image_warnings.image_warnings(num_oriented, bits_used, options.significant_bits),
    ],
  )
