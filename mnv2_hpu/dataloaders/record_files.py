"""TFRecord files: found, and their records counted without reading them."""

import os
import re
import struct
from collections.abc import Iterator, Sequence
from concurrent import futures

import tensorflow as tf

from mnv2_hpu import errors

MAX_COUNTING_THREADS = 16

_GZIP_MAGIC = b"\x1f\x8b"
_SHARD_NUMBER = re.compile(r"-\d+-of-\d+$")
# A TFRecord: length (uint64), its checksum (4 bytes), the data, their checksum.
LENGTH = struct.Struct("<Q")
HEADER_BYTES = 12
FOOTER_BYTES = 4


def match_files(patterns: str | Sequence[str]) -> list[str]:
  """Finds the files of a data set.

  Args:
    patterns: Paths or glob patterns; a string may hold several, with commas between
      them, as in Model Garden's `input_path`.

  Returns:
    The paths, each once, ascending: the same list on every machine.

  Raises:
    UserError: If there is no pattern, if one matches nothing, or if a file is empty
      or a directory.
  """
  given = [patterns] if isinstance(patterns, str) else list(patterns)
  parts = [part.strip() for entry in given for part in entry.split(",")]
  parts = [part for part in parts if part]
  if not parts:
    raise errors.UserError(
      f"No data files were named: received {patterns!r}. Give a path or a pattern "
      "such as data/train-*."
    )
  found: set[str] = set()
  for part in parts:
    matched = tf.io.gfile.glob(part)
    if not matched:
      raise errors.UserError(f"No data file matches {part!r}. {_what_is_there(part)}")
    found.update(matched)
  files = sorted(found)
  for path in files:
    if tf.io.gfile.isdir(path):
      raise errors.UserError(
        f"{path!r} is a directory, not a data file. {_what_is_there(path + '/*')}"
      )
    if tf.io.gfile.stat(path).length == 0:
      raise errors.UserError(
        f"The data file {path!r} is empty (0 bytes). Write it again, or leave it out."
      )
  return files


def count_examples(files: Sequence[str]) -> int:
  """Counts records, reading only where each one starts.

  Raises:
    UserError: If a file is truncated or is not a TFRecord.
  """
  return sum(count_by_file(files))


def count_by_file(files: Sequence[str]) -> list[int]:
  """Counts the records of each file, reading only where each one starts.

  Raises:
    UserError: If a file is truncated or is not a TFRecord.
  """

  def count(path: str) -> int:
    return sum(1 for _ in record_offsets(path))

  with futures.ThreadPoolExecutor(MAX_COUNTING_THREADS) as pool:
    return list(pool.map(count, files))


def record_offsets(path: str) -> Iterator[int]:
  """Yields the offset in bytes of each record of a TFRecord file.

  Raises:
    UserError: If the file is truncated or is not a TFRecord.
  """
  with tf.io.gfile.GFile(path, "rb") as file:
    size = file.size()
    offset = 0
    while offset < size:
      header = file.read(HEADER_BYTES)
      end = offset + HEADER_BYTES + FOOTER_BYTES
      if len(header) == HEADER_BYTES:
        end += LENGTH.unpack_from(header)[0]
      if len(header) < HEADER_BYTES or end > size:
        if offset == 0:
          raise not_a_tfrecord(path, header)
        raise errors.UserError(
          f"The data file {path!r} is truncated or damaged: the record at byte "
          f"{offset} does not end within its {size} bytes. Copy or write it again."
        )
      yield offset
      file.seek(end)
      offset = end


def not_a_tfrecord(path: str, start: bytes) -> errors.UserError:
  """Returns the error that says what a file is instead, from its first bytes."""
  reason = "it starts with bytes that are no record"
  if start.startswith(_GZIP_MAGIC):
    reason = "it is compressed with gzip; decompress it first"
  return errors.UserError(
    f"The data file {path!r} is not a TFRecord, or its first record is cut off: "
    f"{reason}. Received {start[:8]!r}."
  )


def _what_is_there(pattern: str) -> str:
  """Says what the nearest existing directory above a pattern holds."""
  directory, name = os.path.split(pattern)
  while directory and not tf.io.gfile.isdir(directory) and directory != "/":
    directory, name = os.path.split(directory)
  entries = [entry.rstrip("/") for entry in tf.io.gfile.listdir(directory or ".")]
  # Shards are many and alike: name the pattern that finds them all.
  names = {_SHARD_NUMBER.sub("-*", entry) for entry in entries}
  near = errors.did_you_mean(_SHARD_NUMBER.sub("-*", name), names) if names else ""
  directory = directory or "."
  return (
    f"Looked for {name!r} in {directory!r}, which has {len(entries)} entries. {near}"
  )
