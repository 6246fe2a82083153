"""Reading goes on where a record is corrupt: named, counted, replaced.

The next record that can be read replaces a corrupt one. So the stream keeps its length,
every later record its position, and a resumed run reads what an uninterrupted one
reads. In evaluation, where no image may count twice, the first corrupt record is an
error, reported in the same words.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from mnv2_hpu import errors, tfrecord

# Index of its file, offset in it and length in bytes (int64 `[3]`), and the record.
LocatedRecord = tuple[tf.Tensor, tf.Tensor]


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
    num_classes: int,
    image_key: str = tfrecord.IMAGE_KEY,
    label_key: str = tfrecord.LABEL_KEY,
  ) -> None:
    """Stores what is needed to say what is wrong with a record.

    Args:
      files: Paths, as numbered by the locations of records.
      limit: Maximum number of different records that are replaced.
      num_classes: Labels are to lie in [0, num_classes).
      image_key: Feature that holds the encoded image.
      label_key: Feature that holds the label.
    """
    self.seen: set[tuple[int, int]] = set()
    self._files = tuple(files)
    self._limit = limit
    # One more than the limit in a row are all named, and so stop the run.
    self._max_named = limit + 1
    self._num_classes = num_classes
    self._keys = image_key, label_key

  def replace(
    self,
    records: tf.data.Dataset,
    first: int,
    read: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
  ) -> tf.data.Dataset:
    """Turns records into examples.

    Args:
      records: `LocatedRecord`s.
      first: Number of the first one.
      read: From index and record to image and label (int64); an error in it makes the
        record a corrupt one.

    Returns:
      Images and labels (int32), as many as records.
    """

    def read_located(
      index: tf.Tensor, locations: tf.Tensor, record: tf.Tensor
    ) -> tuple:
      return index, locations, *read(index, record)

    def count(last: tf.Tensor, example: tuple) -> tuple:
      index, locations, image, label = example
      missing = index - last - 1
      with tf.control_dependencies([self._check(missing, locations, label)]):
        copies = missing + 1
      return index, (copies, image, tf.cast(label, tf.int32))

    numbered = _enumerate(records, first, self._max_named + 1)
    examples = numbered.map(
      read_located, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    counted = examples.ignore_errors().scan(tf.constant(first - 1, tf.int64), count)
    return counted.flat_map(
      lambda copies, *example: tf.data.Dataset.from_tensors(example).repeat(copies)
    )

  def refuse(
    self,
    records: tf.data.Dataset,
    num_records: int,
    read: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
  ) -> tf.data.Dataset:
    """Turns the records of an evaluation into examples, each once.

    Args:
      records: `LocatedRecord`s.
      num_records: Number of records. Reading stops with an error where there is another
        number, so that none is dropped unseen.
      read: As in `replace`; the limit is 0.

    Returns:
      Images and labels (int32), as many as records.
    """
    # A corrupt record is noticed at the one after it: the first comes last once more.
    examples = self.replace(records.concatenate(records.take(1)), 0, read)
    examples = examples.apply(
      tf.data.experimental.assert_cardinality(num_records + min(num_records, 1))
    )
    numbered = examples.enumerate().filter(lambda index, _: index < num_records)
    return numbered.map(lambda _, example: example)

  def _check(
    self, missing: tf.Tensor, locations: tf.Tensor, label: tf.Tensor
  ) -> tf.Operation:
    """Reports the records that are missing before one, and its label if that is wrong.

    Args:
      missing: Number of corrupt records directly before this one, int64.
      locations: Locations of the last records, this one's last, int64 `[n, 3]`.
      label: Label of this one.
    """
    outside = tf.logical_or(label < 0, label >= self._num_classes)

    def report() -> tf.Tensor:
      named = tf.minimum(missing, self._max_named)
      until = tf.where(outside, tf.shape(locations)[0], -1)
      corrupt = locations[-named - 1 : until]
      return tf.numpy_function(self._report, [corrupt], tf.int64)

    wrong = tf.logical_or(missing > 0, outside)
    return tf.cond(wrong, report, lambda: tf.zeros([], tf.int64)).op

  def _report(self, locations: np.ndarray) -> np.int64:
    """Logs the corrupt records that are met for the first time.

    Raises:
      UserError: If that is one record too many, or if a label is outside the classes.
    """
    for file, offset, length in locations.tolist():
      if (file, offset) in self.seen:
        continue
      problem = tfrecord.find_problem(
        self._files[file], offset, length, self._num_classes, *self._keys
      )
      self.seen.add((file, offset))
      check_limit(problem, len(self.seen), self._limit)
      logging.warning(
        "%s Replaced: corrupt record %d of at most %d.",
        problem,
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
