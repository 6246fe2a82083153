"""TFRecords of labelled images: framing, feature keys, and what is wrong with a record.

The keys are those of slim (`datasets/dataset_utils.image_to_tfexample`), of the TPU
models (`imagenet_to_gcs.py`) and of Model Garden, whose classification input reads the
first two. TensorFlow is imported where it is used: a command's `--help` needs none.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import IO, Any, NamedTuple

from mnv2_hpu import errors

IMAGE_KEY = "image/encoded"
LABEL_KEY = "image/class/label"
TEXT_KEY = "image/class/text"
SYNSET_KEY = "image/class/synset"
FILENAME_KEY = "image/filename"
FORMAT_KEY = "image/format"
HEIGHT_KEY = "image/height"
WIDTH_KEY = "image/width"
CHANNELS_KEY = "image/channels"
COLORSPACE_KEY = "image/colorspace"
MASK_KEY = "image/segmentation/class/encoded"

# A record: length (uint64) and its checksum, the data, the data's checksum.
HEADER_BYTES = 12
FOOTER_BYTES = 4
FRAMING_BYTES = HEADER_BYTES + FOOTER_BYTES

_LENGTH = struct.Struct("<Q")
_GZIP_MAGIC = b"\x1f\x8b"
_MAX_COUNTING_THREADS = 16


class CorruptRecordError(ValueError):
  """A record that holds no image with a label; the message says why."""


class LabelError(ValueError):
  """A label outside the classes: a mistake in the configuration, not corruption."""


class Record(NamedTuple):
  """A record of a file.

  Attributes:
    offset: Byte of the file at which the record starts.
    data: Bytes of the record; empty where they are corrupt.
    problem: What is wrong with these bytes; empty where nothing is.
  """

  offset: int
  data: bytes
  problem: str = ""


class Framing(NamedTuple):
  """What the headers of a file say.

  Attributes:
    num_records: Records of the file; one with a corrupt header is the last.
    corrupt_offset: Byte at which the corrupt header starts; None where all are whole.
  """

  num_records: int
  corrupt_offset: int | None = None


def read_framing(path: str) -> Framing:
  """Counts the records of a file, reading only where each one starts.

  Raises:
    UserError: If the file is truncated or is not a TFRecord.
  """
  size = _size(path)
  num_records = offset = 0
  with _open(path) as file:
    while offset < size:
      file.seek(offset)
      header = file.read(HEADER_BYTES)
      end = _end(offset, header)
      if end is not None and end <= size:
        num_records, offset = num_records + 1, end
        continue
      if offset == 0:
        raise _not_a_tfrecord(path, header)
      if "corrupt" in next(read_records(path, offset)).problem:
        return Framing(num_records + 1, offset)
      raise errors.UserError(
        f"The data file {path!r} is truncated: the record at byte {offset} does not "
        f"end within its {size} bytes. Copy or write it again."
      )
  return Framing(num_records)


def count_records(files: Sequence[str]) -> list[int]:
  """Counts the records of each file by their headers.

  Raises:
    UserError: If a file is truncated or is not a TFRecord.
  """
  return [framing.num_records for framing in read_framings(files)]


def read_framings(files: Sequence[str]) -> list[Framing]:
  """Reads the headers of several files at the same time; see `read_framing`."""
  with futures.ThreadPoolExecutor(_MAX_COUNTING_THREADS) as pool:
    return list(pool.map(read_framing, files))


def read_records(path: str, offset: int = 0) -> Iterator[Record]:
  """Yields all records of a file from a byte on, their checksums verified.

  After a record whose data are corrupt the next one follows; where that cannot be read
  either, it is the last.
  """
  import tensorflow as tf
  from tensorflow.python.lib.io import tf_record

  reader = tf_record.tf_record_random_reader(path)
  size = _size(path)
  after_corrupt = False
  while True:
    try:
      data, following = reader.read(offset)
    except (IndexError, tf.errors.DataLossError) as error:
      if offset == size:
        return
      end = _end(offset, read_bytes(path, offset, HEADER_BYTES))
      beyond = end is None or end > size
      if after_corrupt or (beyond and "corrupted" in str(error)):
        yield Record(offset, b"", "is corrupt, and so may be all that follow")
        return
      if end is None or beyond:
        yield Record(offset, b"", f"is truncated: the file ends at byte {size}")
        return
      yield Record(offset, b"", "is corrupt: its checksum does not match")
      offset, after_corrupt = end, True
    else:
      yield Record(offset, data)
      offset, after_corrupt = following, False


def read_bytes(path: str, offset: int, size: int) -> bytes:
  """Returns `size` bytes of a file from `offset` on, or those up to its end."""
  with _open(path) as file:
    file.seek(offset)
    return file.read(size)


def find_problem(
  path: str,
  offset: int,
  length: int,
  check: Callable[[Mapping[str, Sequence[Any]]], None],
) -> str:
  """Returns why a record cannot be used: a sentence that names the file and the byte.

  Args:
    path: TFRecord file.
    offset: Byte of the file at which the record starts.
    length: Bytes of the record, as far as TensorFlow could read it: 0 where its
      checksum is wrong or the file ends within it.
    check: Raises CorruptRecordError or LabelError where the values of a parsed example
      are not what its task expects.

  Raises:
    UserError: If a label is outside the classes.
  """
  where = f"The record at byte {offset} of {path!r}"
  if _end(offset, read_bytes(path, offset, HEADER_BYTES)) != (
    offset + length + FRAMING_BYTES
  ):
    return (
      f"{where}, and all after it, cannot be read: its checksum is wrong, or the file "
      "is truncated."
    )
  try:
    check(parse_example(read_bytes(path, offset + HEADER_BYTES, length)))
  except CorruptRecordError as error:
    return f"{where} {error}."
  except LabelError as error:
    raise errors.UserError(f"{where} {error}") from error
  return f"{where} cannot be read."


def parse_example(record: bytes) -> dict[str, Sequence[Any]]:
  """Returns the values, one or more, of each feature of a serialized `Example`.

  Raises:
    CorruptRecordError: If the bytes are no `tf.train.Example`.
  """
  from google.protobuf import message
  from tensorflow.core.example import example_pb2

  try:
    example = example_pb2.Example.FromString(record)
  except message.DecodeError as error:
    raise CorruptRecordError(
      f"is not a tf.train.Example ({len(record)} bytes)"
    ) from error
  values = {
    key: getattr(feature, kind).value
    for key, feature in example.features.feature.items()
    if (kind := feature.WhichOneof("kind"))
  }
  return {key: value for key, value in values.items() if value}


def encoded_image(example: Mapping[str, Sequence[Any]], key: str = IMAGE_KEY) -> bytes:
  """Returns the encoded image of a parsed example.

  Raises:
    CorruptRecordError: If there is none.
  """
  values = _values(example, key)
  if len(values) != 1 or not isinstance(values[0], bytes) or not values[0]:
    raise CorruptRecordError(f"holds no image in the feature {key!r}")
  return values[0]


def label_of(
  example: Mapping[str, Sequence[Any]],
  key: str = LABEL_KEY,
  num_classes: int | None = None,
) -> int:
  """Returns the label of a parsed example.

  Args:
    example: Values by key, as `parse_example` returns them.
    key: Feature that holds the label, an int64.
    num_classes: Labels are to lie in [0, num_classes); None allows any from 0 on.

  Raises:
    CorruptRecordError: If there is no label.
    LabelError: If it is outside the classes.
  """
  values = _values(example, key)
  if len(values) != 1 or not isinstance(values[0], int):
    raise CorruptRecordError(
      f"holds {len(values)} values in the feature {key!r}; a label is one integer"
    )
  label = values[0]
  if label < 0 or (num_classes is not None and label >= num_classes):
    raise LabelError(f"has the label {label}{_allowed_labels(label, num_classes)}")
  return label


def _allowed_labels(label: int, num_classes: int | None) -> str:
  if num_classes is None:
    return "; allowed are 0 and more"
  hint = "Set num_classes to the number of classes, or prepare the data again."
  if label == num_classes:
    hint = (
      "If the labels start at 1 and 0 is the background (1 to 1000 in slim's and "
      f"Model Garden's ImageNet), set num_classes to {num_classes + 1}."
    )
  allowed = f"0 to {num_classes - 1}"
  return f", but num_classes is {num_classes}, which allows {allowed}. {hint}"


def decode_image(encoded: bytes) -> Any:
  """Decodes an image as training does.

  Returns:
    A uint8 tensor, `[height, width, 3]`.

  Raises:
    CorruptRecordError: If it cannot be decoded.
  """
  import tensorflow as tf

  try:
    return tf.io.decode_image(encoded, channels=3, expand_animations=False)
  except tf.errors.InvalidArgumentError as error:
    raise CorruptRecordError(
      f"holds an image that cannot be decoded ({len(encoded)} bytes that start with "
      f"{encoded[:8]!r}; allowed are JPEG, PNG, GIF and BMP)"
    ) from error


def _values(example: Mapping[str, Sequence[Any]], key: str) -> Sequence[Any]:
  if key not in example:
    raise CorruptRecordError(
      f"has no feature {key!r}. {errors.did_you_mean(key, example)} Set "
      "image_field_key or label_field_key, or prepare the data again"
    )
  return example[key]


def _open(path: str) -> IO[bytes]:
  """Opens a file for reads far apart, before each of which GFile reads half a MiB."""
  if "://" not in path:
    return open(path, "rb", buffering=0)
  import tensorflow as tf

  return tf.io.gfile.GFile(path, "rb")


def _size(path: str) -> int:
  import tensorflow as tf

  return tf.io.gfile.stat(path).length


def _end(offset: int, header: bytes) -> int | None:
  """Returns the byte at which a record ends; None without a whole header."""
  if len(header) < HEADER_BYTES:
    return None
  return offset + FRAMING_BYTES + _LENGTH.unpack_from(header)[0]


def _not_a_tfrecord(path: str, start: bytes) -> errors.UserError:
  reason = "it starts with bytes that are no record"
  if start.startswith(_GZIP_MAGIC):
    reason = "it is compressed with gzip; decompress it first"
  return errors.UserError(
    f"The data file {path!r} is not a TFRecord, or its first record is truncated: "
    f"{reason}. Received {start[:8]!r}."
  )
