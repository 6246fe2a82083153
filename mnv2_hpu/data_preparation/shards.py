"""One shard: its images read, checked, and written as records, atomically.

A finished shard `train-00000-of-00004` has its report beside the plan (see
`workspace.py`). The report is written before the shard is renamed into place, so that a
shard which exists is whole and reported.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_hpu import example_proto, files, tfrecord
from mnv2_hpu.data_preparation import images
from mnv2_hpu.data_preparation.listing import Record, SourceImage
from mnv2_hpu.data_preparation.shrinking import Shrinking, shrink
from mnv2_hpu.errors import UserError

_IMAGES_PER_SHARD = 1_000
_AUTOMATIC_SHARDS = {"train": (4, 1024), "validation": (1, 128)}  # (min, max)
_MIN_IMAGES_PER_SHARD = 10  # when the number of shards is chosen here


@dataclasses.dataclass(frozen=True)
class ShardTask:
  """What one shard is to hold: everything a worker needs.

  Attributes:
    path: Path of the finished shard.
    report_path: Path of its report.
    source_images: Images of the shard, in the order of its records.
    label_names: Names of all classes.
    read: Returns an image's bytes.
    serialize: Returns an image's record, given its class's name; raises BadImageError
      where its annotation cannot be used.
    jpeg_only: Whether what is no JPEG is converted to one.
    strict: Whether a bad image stops the preparation.
    significant_bits: Bits that samples of 16 bits use.
    shrinking: What is done to large images.
  """

  path: str
  report_path: str
  source_images: Sequence[SourceImage]
  label_names: Sequence[str]
  read: Callable[[SourceImage], bytes]
  serialize: Callable[[images.EncodedImage, SourceImage, str], Record]
  jpeg_only: bool
  strict: bool
  significant_bits: int
  shrinking: Shrinking


@dataclasses.dataclass
class ShardReport:
  """What a finished shard holds.

  Attributes:
    num_records: Records.
    counts_per_class: Examples, boxes or pixels by label, `[num_classes]`.
    skipped: `{"file", "reason"}` of each image left out.
    converted: `{"file", "reason"}` of each image that was re-encoded.
    bits_used: Maximum of `EncodedImage.bits_used` by label, `[num_classes]`.
    oriented_per_class: Images with an EXIF orientation other than upright, by label.
    remarks: `[count, first file]` of each kind of `Record.dropped` and `.remarks`.
    num_bytes: Size of the file.
  """

  num_records: int
  counts_per_class: list[int]
  skipped: list[dict[str, str]]
  converted: list[dict[str, str]]
  bits_used: list[int]
  oriented_per_class: list[int]
  remarks: dict[str, list[Any]]
  num_bytes: int = 0

  def remark(self, kind: str, count: int, file: str) -> None:
    """Adds `count` things of a kind; `file` is shown if it is the first of them."""
    entry = self.remarks.setdefault(kind, [0, file])
    entry[0] += count


def shard_names(split: str, num_shards: int) -> list[str]:
  """Returns the shards' file names.

  >>> shard_names("train", 2)
  ['train-00000-of-00002', 'train-00001-of-00002']
  """
  return [f"{split}-{i:05d}-of-{num_shards:05d}" for i in range(num_shards)]


def choose_num_shards(
  split: str, num_images: int, requested: int, usual: int | None
) -> int:
  """Returns the number of shards of a split.

  Args:
    split: Name of the split.
    num_images: Images of the split.
    requested: Value of the flag; 0 chooses.
    usual: What the source is usually divided into; None where nothing is usual.

  Raises:
    UserError: If the request is impossible.
  """
  if requested < 0 or requested > num_images:
    raise UserError(
      f"--num_{split}_shards={requested} does not suit {num_images} images: allowed "
      f"are 1 to {num_images}, or 0 to have the number chosen."
    )
  if requested:
    return requested
  min_shards, max_shards = _AUTOMATIC_SHARDS[split]
  by_size = min(max(-(-num_images // _IMAGES_PER_SHARD), min_shards), max_shards)
  return max(min(usual or by_size, num_images // _MIN_IMAGES_PER_SHARD), 1)


def merge_reports(paths: Iterable[str | os.PathLike[str]]) -> ShardReport:
  """Returns one report for the shards of a split.

  Raises:
    UserError: If a shard has no readable image.
  """
  reports = [ShardReport(**json.loads(Path(path).read_text("utf-8"))) for path in paths]
  skipped = [entry for report in reports for entry in report.skipped]
  if not all(report.num_records for report in reports):
    raise UserError(
      "none of the images of a shard can be read; the first that cannot: "
      f"{skipped[0]['file']}: {skipped[0]['reason']}. Fix the input, or ask for fewer "
      "shards; then delete the output folder and run the same command again."
    )
  merged = ShardReport(
    num_records=sum(report.num_records for report in reports),
    counts_per_class=np.sum([r.counts_per_class for r in reports], axis=0).tolist(),
    skipped=skipped,
    converted=[entry for report in reports for entry in report.converted],
    bits_used=np.max([r.bits_used for r in reports], axis=0).tolist(),
    oriented_per_class=np.sum([r.oriented_per_class for r in reports], axis=0).tolist(),
    remarks={},
  )
  for report in reports:
    for kind, (count, file) in report.remarks.items():
      merged.remark(kind, count, file)
  return merged


def write_shard(task: ShardTask) -> None:
  """Writes one shard and its report.

  Holds one image in memory at a time.

  Raises:
    UserError: If the disk is full or not writable; or, where the task is strict, an
      image is bad. No unfinished shard remains.
  """
  import tensorflow as tf

  zeros = [0] * len(task.label_names)
  report = ShardReport(0, [*zeros], [], [], [*zeros], [*zeros], {})
  # A worker of a run that was killed may still be at it: the name is this process's.
  tmp_path = f"{task.report_path}.{os.getpid()}{files.TMP_SUFFIX}"
  try:
    with files.atomic_path(task.path, tmp_path):
      with tf.io.TFRecordWriter(tmp_path) as writer:
        for image in task.source_images:
          record = _record(task, image, report)
          if record is not None:
            writer.write(record)
            report.num_records += 1
      report.num_bytes = os.path.getsize(tmp_path)
      with files.atomic_write(task.report_path) as file:
        json.dump(dataclasses.asdict(report), file)
  except (OSError, tf.errors.OpError) as error:
    raise UserError(
      f"{task.path} could not be written: {error}. The shards already finished are "
      "kept: free some space, then run the same command again to continue."
    ) from error


def _record(task: ShardTask, image: SourceImage, report: ShardReport) -> bytes | None:
  """Returns an image's record and adds it to the report; None where it is skipped."""
  shown = printable(image.path)
  try:
    read = images.read(_read(task, image), task.jpeg_only, task.significant_bits)
    stored = shrink(read, task.shrinking)
    record = task.serialize(stored, image, task.label_names[image.label])
    if task.strict and record.dropped:
      raise images.BadImageError("; ".join(record.dropped))
  except images.BadImageError as error:
    if task.strict:
      raise UserError(
        f"{shown}: {error}. Fix or remove the file, or leave --strict out to skip it."
      ) from error
    report.skipped.append({"file": shown, "reason": printable(str(error))})
    return None
  if stored.converted:
    report.converted.append({"file": shown, "reason": stored.converted})
  for label, count in record.counts.items():
    report.counts_per_class[label] += count
  if stored is not read:
    report.remark("images were scaled down", 1, shown)
  for kind, count in [*record.dropped.items(), *record.remarks.items()]:
    report.remark(kind, count, shown)
  report.bits_used[image.label] = max(report.bits_used[image.label], stored.bits_used)
  report.oriented_per_class[image.label] += stored.orientation != 1
  return record.data


def _read(task: ShardTask, image: SourceImage) -> bytes:
  try:
    return task.read(image)
  except OSError as error:
    raise images.BadImageError(f"cannot be read: {error.strerror or error}") from error


def printable(path: str) -> str:
  r"""Returns a path whose bytes that are not UTF-8 are shown as escapes.

  >>> printable("caf\udce9.jpg")
  'caf\\xe9.jpg'
  """
  return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def serialize(image: images.EncodedImage, source: SourceImage, text: str) -> Record:
  """Returns the record of a labelled image, the same bytes for the same arguments.

  Args:
    image: Image to store.
    source: Its label and path; the path is stored for error messages.
    text: Name of the class.
  """
  named = {
    tfrecord.TEXT_KEY: encode_path(text),
    tfrecord.FILENAME_KEY: encode_path(source.path),
  }
  return _labelled(image, source, named)


def serialize_imagenet(
  image: images.EncodedImage, source: SourceImage, synset: str
) -> Record:
  """Returns the record of an ImageNet image: its synset, and its name without folder.

  Args:
    image: Image to store.
    source: Its label (1 to 1000) and path.
    synset: WordNet identifier of the class, such as `n01440764`.
  """
  name = source.path.rpartition("/")[2]
  named = {
    tfrecord.SYNSET_KEY: encode_path(synset),
    tfrecord.FILENAME_KEY: encode_path(name),
  }
  return _labelled(image, source, named)


def _labelled(
  image: images.EncodedImage, source: SourceImage, named: Mapping[str, bytes]
) -> Record:
  features = {**image_features(image), tfrecord.LABEL_KEY: source.label, **named}
  return Record(example_proto.encode_example(features), {source.label: 1})


def image_features(image: images.EncodedImage) -> dict[str, bytes | int]:
  """Returns the features that describe an image, whatever it is annotated with."""
  return {
    tfrecord.IMAGE_KEY: image.encoded,
    tfrecord.FORMAT_KEY: image.format.encode(),
    tfrecord.HEIGHT_KEY: image.height,
    tfrecord.WIDTH_KEY: image.width,
    tfrecord.CHANNELS_KEY: image.channels,
    tfrecord.COLORSPACE_KEY: image.colorspace.encode(),
  }


def encode_path(path: str) -> bytes:
  """Returns the bytes of a name or path, as the file system has them."""
  return path.encode("utf-8", errors="surrogateescape")
