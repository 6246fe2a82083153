"""Re-reads one shard of TFRecords and lists what is wrong in it, record by record."""

import dataclasses
import hashlib
import os
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mnv2_hpu.data_preparation import examples

_LENGTH = struct.Struct("<Q")
_FRAMING = 16  # bytes: length 8, its CRC 4, the data's CRC 4
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_DIGEST_SIZE = 16  # bytes


@dataclasses.dataclass(frozen=True)
class Problem:
  """Something wrong.

  Attributes:
    message: what.
    shard: name of the file; empty where it concerns a whole split.
    record: position in the shard, from 0.
    offset: byte at which that record starts.
  """

  message: str
  shard: str = ""
  record: int | None = None
  offset: int | None = None

  def __str__(self) -> str:
    """Returns one line."""
    where = [self.shard] if self.shard else []
    if self.record is not None:
      where.append(f"record {self.record} at byte {self.offset}")
    return ": ".join([*where, self.message])


@dataclasses.dataclass(frozen=True)
class CheckTask:
  """A shard to check.

  Attributes:
    path: of the shard.
    split: that it belongs to.
    label_names: None where they are not known: any label from 0 is in range then.
    deep: whether to decode every image.
  """

  path: str
  split: str
  label_names: Sequence[str] | None
  deep: bool


@dataclasses.dataclass
class ShardFindings:
  """What a shard holds.

  Attributes:
    examples_per_class: readable records by label.
    digests: of each record's encoded image, 16 bytes each, one after the other; zeros
      where there is none.
    problems: what is wrong.
  """

  examples_per_class: Counter[int] = dataclasses.field(default_factory=Counter)
  digests: bytearray = dataclasses.field(default_factory=bytearray)
  problems: list[Problem] = dataclasses.field(default_factory=list)

  def images(self) -> Iterator[tuple[int, bytes]]:
    """Yields (position of the record, digest of its encoded image)."""
    for record in range(len(self.digests) // _DIGEST_SIZE):
      start = record * _DIGEST_SIZE
      digest = bytes(self.digests[start : start + _DIGEST_SIZE])
      if any(digest):
        yield record, digest


def check_shard(task: CheckTask) -> ShardFindings:
  """Reads every record of a shard, checksums included."""
  found = ShardFindings()
  shard = Path(task.path).name
  for index, offset, record in _records(task.path):
    problems: list[str] = []
    example: dict[str, Any] = {}
    try:
      example = examples.parse(_readable(record))
      problems += _example_problems(task, example)
    except ValueError as error:
      problems.append(str(error))
    found.problems += [Problem(text, shard, index, offset) for text in problems]
    if isinstance(label := example.get(examples.LABEL), int):
      found.examples_per_class[label] += 1
    found.digests += _digest(example.get(examples.ENCODED))
  if not found.digests:
    found.problems.append(Problem("the shard is empty", shard))
  return found


def _readable(record: bytes | ValueError) -> bytes:
  if isinstance(record, ValueError):
    raise record
  return record


def _digest(encoded: Any) -> bytes:
  if not isinstance(encoded, bytes):
    return bytes(_DIGEST_SIZE)
  return hashlib.blake2b(encoded, digest_size=_DIGEST_SIZE).digest()


def _records(path: str) -> Iterator[tuple[int, int, bytes | ValueError]]:
  """Yields (position, offset, the record or what is wrong with it).

  After a record whose data is damaged it goes on with the next one; where that cannot
  be read either, the rest of the shard is given up.
  """
  import tensorflow as tf
  from tensorflow.python.lib.io import tf_record

  size = os.path.getsize(path)
  reader = tf_record.tf_record_random_reader(path)
  index = offset = 0
  damaged_before = False
  while True:
    try:
      record, following = reader.read(offset)
    except IndexError:
      return
    except tf.errors.DataLossError:
      end = _end(path, offset)
      if end is None or end > size:
        yield index, offset, ValueError(f"truncated: the file ends at byte {size}")
        return
      if damaged_before:
        yield index, offset, ValueError("damaged, and so may be all that follows")
        return
      yield index, offset, ValueError("damaged: its checksum does not match")
      following, damaged_before = end, True
    else:
      yield index, offset, record
      damaged_before = False
    index, offset = index + 1, following


def _end(path: str, offset: int) -> int | None:
  """Returns where the record at `offset` says it ends; None without a whole length."""
  with open(path, "rb") as file:
    file.seek(offset)
    head = file.read(_LENGTH.size)
  if len(head) < _LENGTH.size:
    return None
  return offset + _FRAMING + _LENGTH.unpack(head)[0]


def _example_problems(task: CheckTask, example: dict[str, Any]) -> Iterator[str]:
  encoded, label = example.get(examples.ENCODED), example.get(examples.LABEL)
  if not isinstance(encoded, bytes):
    yield f"{examples.ENCODED} is missing"
  elif not encoded.startswith(_SIGNATURES):
    yield f"{examples.ENCODED} is neither JPEG nor PNG"
  elif task.deep:
    yield from _decoding_problems(encoded, example)
  if not isinstance(label, int):
    yield f"{examples.LABEL} is missing"
  else:
    yield from _label_problems(label, example, task.label_names)


def _label_problems(
  label: int, example: dict[str, Any], label_names: Sequence[str] | None
) -> Iterator[str]:
  if label < 0 or (label_names is not None and label >= len(label_names)):
    allowed = f"0 to {len(label_names) - 1}" if label_names else "0 and more"
    yield f"{examples.LABEL} is {label}; allowed are {allowed}"
    return
  key = examples.SYNSET if examples.SYNSET in example else examples.TEXT
  if label_names is not None and isinstance(example.get(key), bytes):
    text = example[key].decode("utf-8", errors="backslashreplace")
    if text != label_names[label]:
      yield (
        f"{examples.LABEL} is {label}, which is {label_names[label]!r}, but "
        f"{key} is {text!r}"
      )


def _decoding_problems(encoded: bytes, example: dict[str, Any]) -> Iterator[str]:
  """Decodes as training does, and compares the size with the one recorded."""
  import tensorflow as tf

  try:
    decoded = tf.io.decode_image(encoded, channels=3, expand_animations=False)
  except tf.errors.InvalidArgumentError as error:
    yield f"{examples.ENCODED} cannot be decoded: {error.message}"
    return
  for key, actual in zip(
    (examples.HEIGHT, examples.WIDTH), decoded.shape[:2], strict=True
  ):
    if example.get(key, actual) != actual:
      yield f"{key} is {example[key]}, but the image has {actual}"
