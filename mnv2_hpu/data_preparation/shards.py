"""One shard: its images read, checked, and written as records; aside, then renamed.

A finished shard `train-00000-of-00004` has its report beside the plan (see
`workspace.py`). The report is written before the shard is renamed into place, so that a
shard which exists is whole and reported.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mnv2_hpu import files
from mnv2_hpu.data_preparation import images
from mnv2_hpu.data_preparation.listing import SourceImage
from mnv2_hpu.errors import UserError


@dataclasses.dataclass(frozen=True)
class ShardTask:
  """What one shard is to hold: everything a worker needs.

  Attributes:
    path: of the finished shard.
    report_path: of its report.
    source_images: Images of the shard, in the order of its records.
    label_names: of all classes.
    read: returns an image's bytes.
    serialize: returns an image's record, given its class's name.
    jpeg_only: whether what is no JPEG is converted to one.
    strict: whether a bad image stops the preparation.
    significant_bits: Bits that samples of 16 bits use.
  """

  path: str
  report_path: str
  source_images: Sequence[SourceImage]
  label_names: Sequence[str]
  read: Callable[[SourceImage], bytes]
  serialize: Callable[[images.EncodedImage, SourceImage, str], bytes]
  jpeg_only: bool
  strict: bool
  significant_bits: int


@dataclasses.dataclass(frozen=True)
class ShardReport:
  """What a finished shard holds.

  Attributes:
    examples_per_class: records by label, `[num_classes]`.
    skipped: `{"file", "reason"}` of each image left out.
    converted: `{"file", "reason"}` of each image re-encoded.
    bits_used: Maximum of `EncodedImage.bits_used` by label, `[num_classes]`.
    oriented_per_class: Images with an EXIF orientation other than upright, by label.
  """

  examples_per_class: list[int]
  skipped: list[dict[str, str]]
  converted: list[dict[str, str]]
  bits_used: list[int]
  oriented_per_class: list[int]

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> "ShardReport":
    """Reads a report."""
    return cls(**json.loads(Path(path).read_text(encoding="utf-8")))

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes a report, aside, then renamed."""
    aside = Path(f"{path}.{os.getpid()}")
    aside.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")
    os.replace(aside, path)


def shard_names(split: str, num_shards: int) -> list[str]:
  """Returns the shards' file names.

  >>> shard_names("train", 2)
  ['train-00000-of-00002', 'train-00001-of-00002']
  """
  return [f"{split}-{i:05d}-of-{num_shards:05d}" for i in range(num_shards)]


def write_shard(task: ShardTask) -> None:
  """Writes one shard and its report.

  Holds one image in memory at a time.

  Raises:
    UserError: the disk is full or not writable; or, where the task is strict, an image
      is bad. No unfinished shard remains.
  """
  import tensorflow as tf

  zeros = [0] * len(task.label_names)
  report = ShardReport([*zeros], [], [], [*zeros], [*zeros])
  path = Path(task.path)
  # A worker of a run that was killed may still be at it, so the name is this process's.
  aside = Path(task.report_path).with_name(f"{path.name}.{os.getpid()}.tmp")
  try:
    with tf.io.TFRecordWriter(str(aside)) as writer:
      for image in task.source_images:
        record = _record(task, image, report)
        if record is not None:
          writer.write(record)
    files.fsync(aside)
    report.save(task.report_path)
    os.replace(aside, path)
  except (OSError, tf.errors.OpError) as error:
    raise UserError(
      f"{path} could not be written: {error}. The shards already finished are kept: "
      "free some space, then run the same command again to continue."
    ) from error
  finally:
    aside.unlink(missing_ok=True)


def _record(task: ShardTask, image: SourceImage, report: ShardReport) -> bytes | None:
  """Returns an image's record and notes it in the report; None where it is skipped."""
  shown = printable(image.path)
  try:
    stored = images.read(_read(task, image), task.jpeg_only, task.significant_bits)
  except images.BadImageError as error:
    if task.strict:
      raise UserError(
        f"{shown}: {error}. Mend or remove the file, or leave --strict out to skip it."
      ) from error
    report.skipped.append({"file": shown, "reason": str(error)})
    return None
  if stored.converted:
    report.converted.append({"file": shown, "reason": stored.converted})
  report.examples_per_class[image.label] += 1
  report.bits_used[image.label] = max(report.bits_used[image.label], stored.bits_used)
  report.oriented_per_class[image.label] += stored.orientation != 1
  text = task.label_names[image.label]
  return task.serialize(stored, image, text)


def _read(task: ShardTask, image: SourceImage) -> bytes:
  try:
    return task.read(image)
  except OSError as error:
    raise images.BadImageError(f"cannot be read: {error.strerror or error}") from error


def printable(path: str) -> str:
  r"""Returns a path whose bytes that are no UTF-8 are shown as escapes.

  >>> printable("caf\udce9.jpg")
  'caf\\xe9.jpg'
  """
  return os.fsencode(path).decode("utf-8", errors="backslashreplace")
