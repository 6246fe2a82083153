"""Reading goes on where a record is corrupt: named, counted, replaced or dropped.

The next record that can be read replaces a corrupt one. So the stream keeps its length,
every later record its position, and a resumed run reads what an uninterrupted one
reads. In evaluation, where no image may count twice, the first corrupt record is an
error, reported in the same words.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from mnv2_hpu import errors, tfrecord

# Index of its file, offset in it and length in bytes (int64 `[3]`), and the record.
LocatedRecord = tuple[tf.Tensor, tf.Tensor]
# From index and record to an example (tensors of static shape, nested as the task
# likes), and whether the labels of the record lie within the classes (bool scalar).
ReadFn = Callable[[tf.Tensor, tf.Tensor], tuple[Any, tf.Tensor]]
# Values by key, as `tfrecord.parse_example` returns them.
Features = Mapping[str, Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class RecordFormat:
  """What a task expects of a record, to say what is wrong with one.

  Attributes:
    num_classes: Number of classes: labels lie in [first_label, num_classes).
    encoded_image: Returns the encoded image; raises `tfrecord.CorruptRecordError`
      where there is none.
    labels: Returns all labels; raises `tfrecord.CorruptRecordError` where they cannot
      be read, and `tfrecord.LabelError` where one is outside the classes.
    first_label: Lowest label. Those below it, a background, are not among the
      `num_classes` that people set.
  """

  num_classes: int
  encoded_image: Callable[[Features], bytes]
  labels: Callable[[Features], Sequence[int]]
  first_label: int = 0

  def check(self, example: Features) -> None:
    """Decodes the image and reads the labels; raises as these do."""
    tfrecord.decode_image(self.encoded_image(example))
    self.labels(example)


def file_opener(files: Sequence[str]) -> Callable[[tf.Tensor], tf.data.Dataset]:
  """Returns a function that reads a TFRecord file to its end, or as far as it can be.

  It maps the index of a file (int64) to `LocatedRecord`s. Where the rest of the file is
  corrupt, one empty record more stands for it.
  """
  sizes = [tf.io.gfile.stat(path).length for path in files]

  def open_file(file: tf.Tensor) -> tf.data.Dataset:
    path, size = tf.gather(files, file), tf.gather(tf.constant(sizes, tf.int64), file)

    def locate(
      offset: tf.Tensor, record: tf.Tensor
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
      length = tf.cast(tf.strings.length(record), tf.int64)
      location = tf.stack([file, offset, length])
      return offset + length + tfrecord.FRAMING_BYTES, (location, record)

    # TensorFlow stops reading a file at the first wrong checksum.
    records = tf.data.TFRecordDataset(path).ignore_errors()
    end = tf.data.Dataset.from_tensors(b"")
    located = records.concatenate(end).scan(tf.zeros([], tf.int64), locate)
    return located.filter(lambda location, _: location[1] != size)

  return open_file


def _enumerate(
  records: tf.data.Dataset, first: int, remembered: int
) -> tf.data.Dataset:
  """Numbers records, and adds to each one the locations of the last ones.

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
  """Replaces corrupt records, up to a limit.

  Attributes:
    seen: `(file, offset)` of each one met.
  """

  def __init__(
    self,
    files: Sequence[str],
    limit: int,
    record_format: RecordFormat,
  ) -> None:
    """Stores what is needed to say what is wrong with a record.

    Args:
      files: Paths, as numbered by the locations of records.
      limit: Maximum number of different records that are replaced.
      record_format: What is expected of a record.
    """
    self.seen: set[tuple[int, int]] = set()
    self._files = tuple(files)
    self._limit = limit
    # One more than the limit in a row are all named, and so stop the run.
    self._max_named = limit + 1
    self._format = record_format

  def replace(
    self, records: tf.data.Dataset, first: int, read: ReadFn
  ) -> tf.data.Dataset:
    """Turns records into examples.

    Args:
      records: `LocatedRecord`s.
      first: Number of the first one.
      read: From index and record to an example; an error in it makes the record a
        corrupt one.

    Returns:
      Examples, as many as records.
    """
    return self._read(records, first, read).flat_map(
      lambda index, copies, example: tf.data.Dataset.from_tensors(example).repeat(
        copies
      )
    )

  def _read(
    self, records: tf.data.Dataset, first: int, read: ReadFn
  ) -> tf.data.Dataset:
    """Reads what can be read; reports what cannot.

    Args:
      records: As those of `replace`, and so are the others.
      first: Number of the first one.
      read: From index and record to an example.

    Returns:
      Number of a record, one more than the corrupt ones directly before it, both int64,
      and its example.
    """

    def read_located(
      index: tf.Tensor, locations: tf.Tensor, record: tf.Tensor
    ) -> tuple:
      return index, locations, *read(index, record)

    def count(last: tf.Tensor, example: tuple) -> tuple:
      index, locations, read_example, valid = example
      missing = index - last - 1
      with tf.control_dependencies([self._check(missing, locations, valid)]):
        copies = missing + 1
      return index, (index, copies, read_example)

    numbered = _enumerate(records, first, self._max_named + 1)
    examples = numbered.map(
      read_located, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return examples.ignore_errors().scan(tf.constant(first - 1, tf.int64), count)

  def refuse(
    self, records: tf.data.Dataset, num_records: int, read: ReadFn
  ) -> tf.data.Dataset:
    """Turns the records of an evaluation into examples, each once.

    Args:
      records: `LocatedRecord`s.
      num_records: Number of records. Reading stops with an error where there is another
        number, so that none is dropped unseen.
      read: As in `replace`; the limit is 0.

    Returns:
      Examples, as many as records.
    """
    # A corrupt record is noticed at the one after it: the first comes last once more.
    examples = self._read(records.concatenate(records.take(1)), 0, read)
    examples = examples.apply(
      tf.data.experimental.assert_cardinality(num_records + min(num_records, 1))
    )
    once = examples.filter(lambda index, copies, example: index < num_records)
    return once.map(lambda index, copies, example: example)

  def drop(self, locations: tf.Tensor, usable: tf.Tensor, examples: Any) -> Any:
    """Drops, of examples that another process has read, those that it could not read.

    Args:
      locations: Locations of their records, int64 `[n, 3]`.
      usable: Whether a record could be read and its labels lie within the classes, bool
        `[n]`.
      examples: Examples, each tensor `[n, ...]`; of other records padding.

    Returns:
      The examples of the usable records, as many as there are.
    """

    def report_and_drop() -> Any:
      corrupt = tf.boolean_mask(locations, tf.logical_not(usable))
      report = tf.numpy_function(
        lambda found: self._report(found, "Left out"), [corrupt], tf.int64
      )
      with tf.control_dependencies([report]):
        kept = tf.identity(usable)
      return tf.nest.map_structure(lambda part: tf.boolean_mask(part, kept), examples)

    return tf.cond(tf.reduce_all(usable), lambda: examples, report_and_drop)

  def _check(
    self, missing: tf.Tensor, locations: tf.Tensor, valid: tf.Tensor
  ) -> tf.Operation:
    """Reports the records that are missing before one, and itself if labels are wrong.

    Args:
      missing: Number of corrupt records directly before this one, int64.
      locations: Locations of the last records, this one's last, int64 `[n, 3]`.
      valid: Whether the labels of this one lie within the classes, bool.
    """

    def report() -> tf.Tensor:
      named = tf.minimum(missing, self._max_named)
      until = tf.where(valid, -1, tf.shape(locations)[0])
      corrupt = locations[-named - 1 : until]
      return tf.numpy_function(self._report, [corrupt], tf.int64)

    wrong = tf.logical_or(missing > 0, tf.logical_not(valid))
    return tf.cond(wrong, report, lambda: tf.zeros([], tf.int64)).op

  def _report(self, locations: np.ndarray, done: str = "Replaced") -> np.int64:
    """Logs the corrupt records that are met for the first time.

    Raises:
      UserError: If that is one record too many, or if a label is outside the classes.
    """
    for file, offset, length in locations.tolist():
      if (file, offset) in self.seen:
        continue
      problem = tfrecord.find_problem(
        self._files[file], offset, length, self._format.check
      )
      self.seen.add((file, offset))
      check_limit(problem, len(self.seen), self._limit)
      logging.warning(
        "%s %s: corrupt record %d of at most %d.",
        problem,
        done,
        len(self.seen),
        self._limit,
      )
    return np.int64(len(self.seen))


def check_limit(problem: str, count: int, limit: int) -> None:
  """Raises UserError with the last problem where more records are corrupt than may be.

  Args:
    problem: What is wrong with the last one.
    count: Number of corrupt records.
    limit: Maximum number that is allowed: `max_corrupt_records`; 0 in evaluation.
  """
  if count > limit:
    raise errors.UserError(
      f"{problem} That makes {count} corrupt records; max_corrupt_records allows "
      f"{limit} in training, and evaluation none. Check the data with "
      "mnv2-verify-data --deep, prepare it again, or raise the limit."
    )
