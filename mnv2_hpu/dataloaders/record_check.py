"""Labelled images in TFRecords, checked before training.

Every mistake that these files can hold is cheaper to report before the first step
than to meet in the middle of a run, where TensorFlow names neither file nor record.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence

import tensorflow as tf
from absl import logging
from google.protobuf import message

from mnv2_hpu import errors
from mnv2_hpu.dataloaders import record_files

IMAGE_KEY = "image/encoded"
LABEL_KEY = "image/class/label"
MAX_CHECKED_FILES = 3
MAX_CHECKED_RECORDS = 32


@dataclasses.dataclass(frozen=True)
class CheckedRecords:
  """What `check_records` has read.

  Attributes:
    files: The files that were opened.
    num_records: How many records were read and decoded.
    labels: The labels among them, ascending.
  """

  files: tuple[str, ...]
  num_records: int
  labels: tuple[int, ...]


def check_records(
  files: Sequence[str],
  num_classes: int,
  label_key: str = LABEL_KEY,
  image_key: str = IMAGE_KEY,
  max_records: int = MAX_CHECKED_RECORDS,
) -> CheckedRecords:
  """Reads the first records of the first, the middle and the last file.

  Args:
    files: Paths of TFRecords.
    num_classes: Labels are to lie in [0, num_classes).
    label_key: Feature that holds the label, an int64.
    image_key: Feature that holds the encoded image.
    max_records: How many records of each file are read.

  Returns:
    What was read.

  Raises:
    UserError: If a file is truncated or no TFRecord, if a record lacks its image or
      its label, if a label is out of range, if an image cannot be decoded, or if
      every image is of one colour only. Names the file and the record.
  """
  positions = {0, len(files) // 2, len(files) - 1}
  checked = tuple(files[i] for i in sorted(positions)[:MAX_CHECKED_FILES])
  labels: list[int] = []
  constant: list[str] = []
  for path in checked:
    for _ in record_files.record_offsets(path):  # to the end: finds a truncated tail
      pass
    for index, record in enumerate(_read_records(path, max_records)):
      where = f"record {index} of {path!r}"
      features = _parse(record, where)
      labels.append(_label(features, label_key, num_classes, where))
      image = _decode(_bytes(features, image_key, where), where)
      if tf.reduce_min(image) == tf.reduce_max(image):
        constant.append(where)
  if len(constant) == len(labels):
    raise errors.UserError(
      f"All {len(labels)} images that were read are of one colour only, first "
      f"{constant[0]}. The images were lost when the data set was written; prepare it "
      "again."
    )
  if constant:
    logging.warning(
      "%d of %d images that were read are of one colour only, first %s.",
      len(constant),
      len(labels),
      constant[0],
    )
  return CheckedRecords(checked, len(labels), tuple(sorted(set(labels))))


def describe_problem(
  path: str,
  offset: int,
  length: int,
  label_key: str = LABEL_KEY,
  image_key: str = IMAGE_KEY,
) -> str:
  """Says why a record cannot be read: sentences that name the file and the record.

  Args:
    path: Of a TFRecord file.
    offset: Of the record in bytes.
    length: Of the record in bytes, as far as TensorFlow could read it: 0 where its
      checksum is wrong or the file ends within it.
    label_key: Feature that holds the label, an int64.
    image_key: Feature that holds the encoded image.
  """
  where = f"the record at byte {offset} of {path!r}"
  with tf.io.gfile.GFile(path, "rb") as file:
    file.seek(offset)
    header = file.read(record_files.HEADER_BYTES)
    stated = (
      record_files.LENGTH.unpack_from(header)[0]
      if len(header) == record_files.HEADER_BYTES
      else None
    )
    record = file.read(length)
  if stated != length:
    return (
      f"{where.capitalize()}, and all after it, cannot be read: its checksum is wrong, "
      "or the file is cut off."
    )
  try:
    features = _parse(record, where)
    _label(features, label_key, sys.maxsize, where)
    _decode(_bytes(features, image_key, where), where)
  except errors.UserError as error:
    return str(error)
  return f"{where.capitalize()} cannot be read."


def _read_records(path: str, max_records: int) -> Iterator[bytes]:
  """Yields the first records of a file, with their checksums verified."""
  index = 0
  try:
    for record in tf.data.TFRecordDataset(path).take(max_records):
      yield record.numpy()
      index += 1
  except tf.errors.DataLossError as error:
    if index == 0:
      with tf.io.gfile.GFile(path, "rb") as file:
        raise record_files.not_a_tfrecord(
          path, file.read(record_files.HEADER_BYTES)
        ) from error
    raise errors.UserError(
      f"Record {index} of {path!r} is damaged: {error.message}. Copy or write the "
      "file again."
    ) from error


def _parse(record: bytes, where: str) -> dict[str, tf.train.Feature]:
  try:
    return dict(tf.train.Example.FromString(record).features.feature)
  except message.DecodeError as error:
    raise errors.UserError(
      f"{where.capitalize()} is not a tf.train.Example ({len(record)} bytes)."
    ) from error


def _feature(
  features: dict[str, tf.train.Feature], key: str, where: str
) -> tf.train.Feature:
  if key not in features:
    raise errors.UserError(
      f"There is no feature {key!r} in {where}. {errors.did_you_mean(key, features)} "
      "Set image_field_key or label_field_key, or prepare the data again."
    )
  return features[key]


def _label(
  features: dict[str, tf.train.Feature], key: str, num_classes: int, where: str
) -> int:
  values = _feature(features, key, where).int64_list.value
  if len(values) != 1:
    raise errors.UserError(
      f"The feature {key!r} in {where} holds {len(values)} integers; a label is one."
    )
  label = int(values[0])
  if not 0 <= label < num_classes:
    raise errors.UserError(
      f"The label {label} in {where} is outside the classes: num_classes is "
      f"{num_classes}, which allows 0 to {num_classes - 1}. "
      + _range_hint(label, num_classes)
    )
  return label


def _range_hint(label: int, num_classes: int) -> str:
  if label == num_classes:
    return (
      f"If the labels start at 1 and 0 is the background (ImageNet in slim's and Model "
      f"Garden's layout: 1 to 1000), set num_classes to {num_classes + 1}."
    )
  return "Set num_classes to the number of classes, or prepare the data again."


def _bytes(features: dict[str, tf.train.Feature], key: str, where: str) -> bytes:
  values = _feature(features, key, where).bytes_list.value
  if len(values) != 1 or not values[0]:
    raise errors.UserError(
      f"The feature {key!r} in {where} holds no image: {len(values)} byte strings, "
      f"{sum(map(len, values))} bytes."
    )
  return values[0]


def _decode(encoded: bytes, where: str) -> tf.Tensor:
  try:
    return tf.io.decode_image(encoded, channels=3, expand_animations=False)
  except tf.errors.InvalidArgumentError as error:
    raise errors.UserError(
      f"The image in {where} cannot be decoded ({len(encoded)} bytes that start with "
      f"{encoded[:8]!r}). Allowed are JPEG, PNG, GIF and BMP; prepare the data again."
    ) from error
