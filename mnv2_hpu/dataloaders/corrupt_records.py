"""Training goes on where a record cannot be read: named, counted, replaced.

In the place of a corrupt record the next readable one is seen once more. So the
stream keeps its length, every later record its position, and a resumed run reads what
an uninterrupted one reads.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from mnv2_hpu import errors
from mnv2_hpu.dataloaders import record_check, record_files

_RECORD_OVERHEAD = record_files.HEADER_BYTES + record_files.FOOTER_BYTES

# Index of its file, offset in it and length in bytes (int64 `[3]`), and the record.
LocatedRecord = tuple[tf.Tensor, tf.Tensor]


def located_records(
  path: tf.Tensor, file: tf.Tensor, size: tf.Tensor
) -> tf.data.Dataset:
  """Reads a TFRecord file to its end, or as far as it can be read.

  Args:
    path: Of the file.
    file: Its index, int64.
    size: Its size in bytes, int64.

  Returns:
    `LocatedRecord`s. Where the rest of the file is damaged, one empty record more
    stands for it.
  """

  def locate(
    offset: tf.Tensor, record: tf.Tensor
  ) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
    length = tf.cast(tf.strings.length(record), tf.int64)
    return offset + length + _RECORD_OVERHEAD, (
      tf.stack([file, offset, length]),
      record,
    )

  # TensorFlow gives up a file at the first wrong checksum.
  records = tf.data.TFRecordDataset(path).ignore_errors()
  end = tf.data.Dataset.from_tensors(b"")
  located = records.concatenate(end).scan(tf.zeros([], tf.int64), locate)
  return located.filter(lambda location, _: location[1] != size)


def _enumerate(
  records: tf.data.Dataset, first: int, remembered: int
) -> tf.data.Dataset:
  """Numbers records, and lets each one know where the last ones came from.

  Args:
    records: `LocatedRecord`s.
    first: Number of the first one.
    remembered: Records whose locations are known, the record itself included.

  Returns:
    `(index, locations, record)`: int64, int64 `[remembered, 3]` (the last line is the
    record's own), string.
  """

  def number(
    state: tuple[tf.Tensor, tf.Tensor], located: LocatedRecord
  ) -> tuple[tuple[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    (index, locations), (location, record) = state, located
    locations = tf.concat([locations[1:], location[tf.newaxis]], axis=0)
    return (index + 1, locations), (index, locations, record)

  start = (tf.constant(first, tf.int64), tf.zeros([remembered, 3], tf.int64))
  return records.scan(start, number)


class CorruptRecords:
  """Skips the records that cannot be read, up to a limit.

  Attributes:
    seen: `(file, offset)` of each one met.
  """

  def __init__(
    self, files: Sequence[str], limit: int, image_key: str, label_key: str
  ) -> None:
    """Remembers what is needed to say what is wrong with a record.

    Args:
      files: Paths, as numbered by the locations of records.
      limit: Most different records that may be skipped.
      image_key: Feature that holds the encoded image.
      label_key: Feature that holds the label.
    """
    self.seen: set[tuple[int, int]] = set()
    self._files = tuple(files)
    self._limit = limit
    # One more than the limit in a row are all named, and so stop the run.
    self._most_named = limit + 1
    self._keys = {"image_key": image_key, "label_key": label_key}

  def skip(
    self,
    records: tf.data.Dataset,
    first: int,
    read: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
  ) -> tf.data.Dataset:
    """Turns records into examples.

    Args:
      records: `LocatedRecord`s.
      first: Number of the first one.
      read: From index and record to image and label; an error in it makes the record
        an unreadable one.

    Returns:
      Images and labels, as many as records.
    """

    def readable(index: tf.Tensor, locations: tf.Tensor, record: tf.Tensor) -> tuple:
      return index, locations, *read(index, record)

    def count(last: tf.Tensor, example: tuple) -> tuple:
      index, locations, image, label = example
      missing = index - last - 1
      with tf.control_dependencies([self._report_if_any(missing, locations)]):
        copies = missing + 1
      return index, (copies, image, label)

    numbered = _enumerate(records, first, self._most_named + 1)
    examples = numbered.map(
      readable, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    counted = examples.ignore_errors().scan(tf.constant(first - 1, tf.int64), count)
    return counted.flat_map(
      lambda copies, *example: tf.data.Dataset.from_tensors(example).repeat(copies)
    )

  def _report_if_any(self, missing: tf.Tensor, locations: tf.Tensor) -> tf.Operation:
    def report() -> tf.Tensor:
      named = tf.minimum(missing, self._most_named)
      return tf.numpy_function(self._report, [locations[-named - 1 : -1]], tf.int64)

    return tf.cond(missing > 0, report, lambda: tf.zeros([], tf.int64)).op

  def _report(self, locations: np.ndarray) -> np.int64:
    """Logs what was skipped for the first time.

    Raises:
      UserError: If that is one record too many.
    """
    for file, offset, length in locations.tolist():
      if (file, offset) in self.seen:
        continue
      self.seen.add((file, offset))
      problem = record_check.describe_problem(
        self._files[file], offset, length, **self._keys
      )
      if len(self.seen) > self._limit:
        raise errors.UserError(
          f"{problem} That makes {len(self.seen)} corrupt training records; "
          f"max_corrupt_records allows {self._limit}. Check the data with "
          "mnv2-verify-data --deep, prepare it again, or raise the limit."
        )
      logging.warning(
        "%s Skipped: corrupt record %d of at most %d.",
        problem,
        len(self.seen),
        self._limit,
      )
    return np.int64(len(self.seen))
