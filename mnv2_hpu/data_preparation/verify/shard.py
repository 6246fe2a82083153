"""Checks of one shard: every record of it."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mnv2_hpu import detection_record, tfrecord
from mnv2_hpu.data_preparation.verify import boxes, labels, masks

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_DIGEST_SIZE = 16  # bytes
_FIND_PROBLEMS = {
  "classification": labels.find_problems,
  "detection": boxes.find_problems,
  "segmentation": masks.find_problems,
}


@dataclasses.dataclass
class ShardFindings:
  """What a shard holds.

  Attributes:
    counts: Examples, boxes or pixels of readable records, by label.
    digests: Digest of each record's encoded image, 16 bytes each, one after the other;
      zeros where there is none.
    source_ids: Number of each image with boxes.
    problems: What is wrong, a line each.
  """

  counts: Counter[int] = dataclasses.field(default_factory=Counter)
  digests: bytearray = dataclasses.field(default_factory=bytearray)
  source_ids: list[bytes] = dataclasses.field(default_factory=list)
  problems: list[str] = dataclasses.field(default_factory=list)

  def images(self) -> Iterator[tuple[int, bytes]]:
    """Yields (position of the record, digest of its encoded image)."""
    for record in range(len(self.digests) // _DIGEST_SIZE):
      digest = bytes(self.digests[record * _DIGEST_SIZE :][:_DIGEST_SIZE])
      if any(digest):
        yield record, digest

  @property
  def num_images(self) -> int:
    """Number of records with an image."""
    return sum(1 for _ in self.images())


def check_shard(
  path: str, label_names: Sequence[str] | None, deep: bool, task: str = ""
) -> ShardFindings:
  """Reads every record of a shard, checksums included.

  Args:
    path: Path of the shard.
    label_names: Names of the classes; where None, any label from 0 is in range.
    deep: Whether to decode every image.
    task: What the records are for, as `DatasetInfo.task`; where empty, each shows it by
      what it holds.
  """
  found = ShardFindings()
  shard = Path(path).name
  if not Path(path).is_file():  # a pipe would be waited for
    found.problems.append(f"{shard}: no file, or a link that leads to none")
    return found
  for index, record in enumerate(tfrecord.read_records(path)):
    example: Mapping[str, Sequence[Any]] = {}
    problems = [record.problem] if record.problem else []
    if not problems:
      try:
        example = tfrecord.parse_example(record.data)
      except tfrecord.CorruptRecordError as error:
        problems.append(str(error))
      else:
        find_problems = _FIND_PROBLEMS[task or _task_of(example)]
        problems += find_problems(example, label_names, found.counts)
        problems += _image_problems(example, deep)
    where = f"{shard}: record {index} at byte {record.offset}"
    found.problems += [f"{where} {problem}" for problem in problems]
    found.source_ids += example.get(detection_record.SOURCE_ID_KEY, [])
    encoded = example.get(tfrecord.IMAGE_KEY, [b""])[0]
    found.digests += (
      hashlib.blake2b(encoded, digest_size=_DIGEST_SIZE).digest()
      if isinstance(encoded, bytes) and encoded
      else bytes(_DIGEST_SIZE)
    )
  if not found.digests:
    found.problems.append(f"{shard}: the shard is empty")
  return found


def _task_of(example: Mapping[str, Sequence[Any]]) -> str:
  if tfrecord.MASK_KEY in example:
    return "segmentation"
  has_boxes = (
    detection_record.SOURCE_ID_KEY in example and tfrecord.LABEL_KEY not in example
  )
  return "detection" if has_boxes else "classification"


def _image_problems(example: Mapping[str, Sequence[Any]], deep: bool) -> Iterator[str]:
  """Yields what is wrong with the image; where deep, decodes it as training does."""
  try:
    encoded = tfrecord.encoded_image(example)
    if not encoded.startswith(_SIGNATURES):
      yield f"holds neither JPEG nor PNG in {tfrecord.IMAGE_KEY}"
    elif deep:
      height, width, _ = tfrecord.decode_image(encoded).shape
      sizes = {tfrecord.HEIGHT_KEY: height, tfrecord.WIDTH_KEY: width}
      for key, actual in sizes.items():
        if (stated := example.get(key, [actual])[0]) != actual:
          yield f"says {stated} in {key}, but the image has {actual}"
  except tfrecord.CorruptRecordError as error:
    yield str(error)
