"""TFRecords of images with labels, checked before training.

Every mistake that these files can hold is cheaper to report before the first step
than to meet in the middle of a run, where TensorFlow names neither file nor record.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import tensorflow as tf
from absl import logging

from mnv2_hpu import errors, tfrecord
from mnv2_hpu.dataloaders import corrupt_records, dataset_info, record_files

if TYPE_CHECKING:
  from official.core import config_definitions as cfg

MAX_DECODED_RECORDS = 32  # in each of three files
# Larger sets are read in part: their checks must not take longer than the first steps.
MAX_COUNTED_RECORDS = 200_000
MAX_READ_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class CheckedRecords:
  """What `check_records` has read.

  Attributes:
    num_examples: Records in all files; None where they are too many to be counted.
    num_read: Number of records that were read.
    labels: Labels among them, ascending.
    corrupt: What is wrong with each corrupt record among them.
  """

  num_examples: int | None
  num_read: int
  labels: tuple[int, ...]
  corrupt: tuple[str, ...]


def check_input(
  data: cfg.DataConfig, record_format: corrupt_records.RecordFormat
) -> CheckedRecords:
  """Compares the files of an input with its configuration; see `check_records`.

  Args:
    data: What is read, as `input_pipeline.build_dataset` takes it.
    record_format: What is expected of a record.
  """
  return check_records(
    record_files.match_files(data.input_path),
    record_format,
    num_examples=data.num_examples or None,
    max_corrupt_records=data.max_corrupt_records if data.is_training else 0,
  )


def check_records(
  files: Sequence[str],
  record_format: corrupt_records.RecordFormat,
  *,
  num_examples: int | None = None,
  max_corrupt_records: int = 0,
) -> CheckedRecords:
  """Compares the files with the configuration.

  The records of all files are counted, of a large set (`MAX_COUNTED_RECORDS`) only
  those of the first, the middle and the last. All are read, of a large set
  (`MAX_READ_BYTES`) only the first of those three; the first of the three are decoded.

  Args:
    files: Paths of TFRecords.
    record_format: What is expected of a record.
    num_examples: Number of records that the configuration states; None where it
      states none.
    max_corrupt_records: Maximum number of corrupt records that are accepted, with a
      warning for each.

  Returns:
    What was read.

  Raises:
    UserError: If a file is truncated or no TFRecord, if the files hold another number
      of records than stated or than dataset.json says, if a label is out of range, if
      more records are corrupt than accepted, or if every image that was read is
      corrupt or of one color only. Names the file and the record.
  """
  sample = [files[i] for i in sorted({0, len(files) // 2, len(files) - 1})]
  recorded = dataset_info.recorded_split(files)
  if recorded:
    _check_recorded_labels(recorded, record_format, sample[0])
  counted = _count(files, sample)
  reader = _Reader(record_format, max_corrupt_records)
  small = _num_bytes(files) <= MAX_READ_BYTES
  for path in files if small else sample:
    num_decoded = MAX_DECODED_RECORDS if path in sample else 0
    reader.read(path, num_decoded, None if small else MAX_DECODED_RECORDS)
  reader.check_images()
  _check_count(files, counted, recorded, num_examples)
  labels = tuple(sorted(reader.labels))
  return CheckedRecords(counted, reader.num_read, labels, tuple(reader.corrupt))


def _check_recorded_labels(
  split: dataset_info.SplitInfo, record_format: corrupt_records.RecordFormat, path: str
) -> None:
  num_classes, first = record_format.num_classes, record_format.first_label
  counts = split.examples_per_class or split.boxes_per_class or split.pixels_per_class
  label = max((i for i, count in enumerate(counts) if count), default=first)
  if label >= num_classes:
    raise errors.UserError(
      f"dataset.json beside {path!r} counts examples of the label {label}, but "
      f"num_classes is {num_classes - first}, which allows {first} to "
      f"{num_classes - 1}. Set num_classes to {len(counts) - first}, "
      "or to 0 to read it from there."
    )


def _count(files: Sequence[str], sample: Sequence[str]) -> int | None:
  """Returns the number of records; None where they are too many, or cannot be counted.

  Raises:
    UserError: If a file is truncated or no TFRecord.
  """
  in_sample = sum(tfrecord.count_records(sample))
  if in_sample * _num_bytes(files) / _num_bytes(sample) > MAX_COUNTED_RECORDS:
    return None
  framings = tfrecord.read_framings(files)
  if any(framing.corrupt_offset is not None for framing in framings):
    return None  # what follows a corrupt header cannot be counted
  return sum(framing.num_records for framing in framings)


def _check_count(
  files: Sequence[str],
  counted: int | None,
  recorded: dataset_info.SplitInfo | None,
  num_examples: int | None,
) -> None:
  if counted is None and recorded:
    counted = recorded.num_examples
  stated = {
    "dataset.json": recorded.num_examples if recorded else None,
    "the configuration (num_train_examples, num_validation_examples)": num_examples,
  }
  for name, number in stated.items():
    if counted is not None and number is not None and number != counted:
      raise errors.UserError(
        f"The data in {errors.shorten([repr(path) for path in files], 2)} holds "
        f"{counted:,} records, but {name} says {number:,}. Set the number to "
        f"{counted}, or to 0 to have it read; or bring the files that are missing, or "
        "prepare the data again."
      )


def _num_bytes(files: Sequence[str]) -> int:
  return sum(tf.io.gfile.stat(path).length for path in files)


class _Reader:
  """Reads records, and collects what they hold.

  Attributes:
    num_read: Number of records that were read.
    labels: Different labels of the records that are not corrupt.
    corrupt: What is wrong with each of the others.
  """

  def __init__(self, record_format: corrupt_records.RecordFormat, limit: int) -> None:
    self.num_read = 0
    self.labels: set[int] = set()
    self.corrupt: list[str] = []
    self._format = record_format
    self._limit = limit
    self._num_decoded = 0
    self._blank: list[str] = []  # where the images of one color are

  def read(self, path: str, num_decoded: int, max_records: int | None) -> None:
    """Reads the first records of a file; decodes the very first.

    Raises:
      UserError: If a label is outside the classes, or one record too many is corrupt.
    """
    records = itertools.islice(tfrecord.read_records(path), max_records)
    for index, record in enumerate(records):
      where = f"record {index} of {path!r} (at byte {record.offset})"
      self.num_read += 1
      try:
        self._read(record, where, index < num_decoded)
      except tfrecord.CorruptRecordError as error:
        self.corrupt.append(f"{where} {error}.")
        corrupt_records.check_limit(self.corrupt[-1], len(self.corrupt), self._limit)
        logging.warning("%s", self.corrupt[-1])
      except tfrecord.LabelError as error:
        raise errors.UserError(f"{where} {error}") from error

  def _read(self, record: tfrecord.Record, where: str, decode: bool) -> None:
    if record.problem:
      raise tfrecord.CorruptRecordError(record.problem)
    example = tfrecord.parse_example(record.data)
    labels = self._format.labels(example)
    encoded = self._format.encoded_image(example)
    if decode:
      image = tfrecord.decode_image(encoded)
      self._num_decoded += 1
      if tf.reduce_min(image) == tf.reduce_max(image):
        self._blank.append(where)
    self.labels.update(labels)

  def check_images(self) -> None:
    """Raises UserError where no image that was read can be learned from."""
    if len(self.corrupt) == self.num_read:
      raise errors.UserError(
        f"All {self.num_read} records that were read are corrupt. {self.corrupt[0]} "
        "Prepare the data again."
      )
    if len(self._blank) == self._num_decoded > 0:
      raise errors.UserError(
        f"All {self._num_decoded} images that were decoded are of one color only, the "
        f"first in {self._blank[0]}. The images were lost when the data set was "
        "written; prepare it again."
      )
    if self._blank:
      logging.warning(
        "%d of %d images that were decoded are of one color only, the first in %s.",
        len(self._blank),
        self._num_decoded,
        self._blank[0],
      )
