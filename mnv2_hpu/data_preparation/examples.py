"""The record of one image, in the layout that slim and Model Garden read.

Keys: slim's `datasets/build_imagenet_data.py` and `dataset_utils.image_to_tfexample`,
the TPU models' `imagenet_to_gcs.py`; Model Garden's
`vision/dataloaders/classification_input.py` reads the first two.

Records are encoded here rather than by protobuf, which copies an image several times;
the bytes are those that protobuf's deterministic serialization gives.
"""

import functools
from collections.abc import Mapping
from typing import Any

from mnv2_hpu.data_preparation.images import EncodedImage
from mnv2_hpu.data_preparation.listing import SourceImage

ENCODED = "image/encoded"
LABEL = "image/class/label"
TEXT = "image/class/text"
SYNSET = "image/class/synset"
FILENAME = "image/filename"
FORMAT = "image/format"
HEIGHT = "image/height"
WIDTH = "image/width"
CHANNELS = "image/channels"
COLORSPACE = "image/colorspace"


def serialize(image: EncodedImage, source: SourceImage, text: str) -> bytes:
  """Returns a serialized `tf.train.Example`, the same bytes for the same arguments.

  Args:
    image: what to store.
    source: label and path; the path is stored for error messages.
    text: name of the class.
  """
  named = {TEXT: _encode(text), FILENAME: _encode(source.path)}
  return encode_example({**_features(image, source.label), **named})


def serialize_imagenet(image: EncodedImage, source: SourceImage, synset: str) -> bytes:
  """Returns the record of an ImageNet image: its synset, and its name without folder.

  Args:
    image: what to store.
    source: label (1 to 1000) and path.
    synset: WordNet's number of the class, such as `n01440764`.
  """
  name = source.path.rpartition("/")[2]
  named = {SYNSET: _encode(synset), FILENAME: _encode(name)}
  return encode_example({**_features(image, source.label), **named})


def _features(image: EncodedImage, label: int) -> dict[str, bytes | int]:
  return {
    ENCODED: image.encoded,
    LABEL: label,
    FORMAT: image.format.encode(),
    HEIGHT: image.height,
    WIDTH: image.width,
    CHANNELS: image.channels,
    COLORSPACE: image.colorspace.encode(),
  }


def _encode(path: str) -> bytes:
  return path.encode("utf-8", errors="surrogateescape")


# Tags of `tensorflow/core/example/{example,feature}.proto`: field number and wire type.
_FIELD_1 = b"\x0a"  # Example.features, Features.feature, key, bytes_list, values
_FIELD_2 = b"\x12"  # the value of an entry of Features.feature
_FIELD_3 = b"\x1a"  # Feature.int64_list


def encode_example(features: Mapping[str, bytes | int]) -> bytes:
  """Returns a serialized `tf.train.Example` of single values, keys in sorted order.

  Args:
    features: by key; integers are not negative.
  """
  parts: list[bytes] = []
  for key, value in sorted(features.items()):
    if isinstance(value, int):
      parts.append(_integer_entry(key, value))
    else:
      parts += _entry_head(key, _FIELD_1, len(value)), value
  size = sum(map(len, parts))
  return b"".join((_FIELD_1, _varint(size), *parts))


@functools.lru_cache(maxsize=4096)
def _integer_entry(key: str, value: int) -> bytes:
  packed = _varint(value)
  return _entry_head(key, _FIELD_3, len(packed)) + packed


@functools.lru_cache(maxsize=4096)
def _entry_head(key: str, kind: bytes, size: int) -> bytes:
  """Returns what precedes a value of `size` bytes in its entry."""
  values = _FIELD_1 + _varint(size)
  values_list = kind + _varint(len(values) + size)
  feature_size = len(values_list) + len(values) + size
  name = key.encode()
  named = _FIELD_1 + _varint(len(name)) + name + _FIELD_2 + _varint(feature_size)
  entry = _FIELD_1 + _varint(len(named) + feature_size)
  return entry + named + values_list + values


def _varint(value: int) -> bytes:
  if value < 0x80:
    return value.to_bytes(1, "little")
  encoded = bytearray()
  while value >= 0x80:
    encoded.append(value & 0x7F | 0x80)
    value >>= 7
  encoded.append(value)
  return bytes(encoded)


def parse(record: bytes) -> dict[str, Any]:
  """Returns the first value of each feature of a serialized `tf.train.Example`.

  Raises:
    ValueError: the bytes are no `tf.train.Example`.
  """
  from google.protobuf import message
  from tensorflow.core.example import example_pb2

  example = example_pb2.Example()
  try:
    example.ParseFromString(record)
  except message.DecodeError as error:
    raise ValueError(f"no tf.train.Example: {error}") from error
  found = {}
  for key, feature in example.features.feature.items():
    kind = feature.WhichOneof("kind")
    values = getattr(feature, kind).value if kind else ()
    if values:
      found[key] = values[0]
  return found
