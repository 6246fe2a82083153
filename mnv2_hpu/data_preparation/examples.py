"""The record of one image, in the layout that slim and Model Garden read.

Records are encoded here rather than by protobuf, which copies an image several times;
the bytes are those that protobuf's deterministic serialization gives.
"""

import functools
from collections.abc import Mapping

from mnv2_hpu import tfrecord
from mnv2_hpu.data_preparation.images import EncodedImage
from mnv2_hpu.data_preparation.listing import SourceImage


def serialize(image: EncodedImage, source: SourceImage, text: str) -> bytes:
  """Returns a serialized `tf.train.Example`, the same bytes for the same arguments.

  Args:
    image: Image to store.
    source: Its label and path; the path is stored for error messages.
    text: Name of the class.
  """
  named = {
    tfrecord.TEXT_KEY: _encode(text),
    tfrecord.FILENAME_KEY: _encode(source.path),
  }
  return encode_example({**_features(image, source.label), **named})


def serialize_imagenet(image: EncodedImage, source: SourceImage, synset: str) -> bytes:
  """Returns the record of an ImageNet image: its synset, and its name without folder.

  Args:
    image: Image to store.
    source: Its label (1 to 1000) and path.
    synset: WordNet identifier of the class, such as `n01440764`.
  """
  name = source.path.rpartition("/")[2]
  named = {tfrecord.SYNSET_KEY: _encode(synset), tfrecord.FILENAME_KEY: _encode(name)}
  return encode_example({**_features(image, source.label), **named})


def _features(image: EncodedImage, label: int) -> dict[str, bytes | int]:
  return {
    tfrecord.IMAGE_KEY: image.encoded,
    tfrecord.LABEL_KEY: label,
    tfrecord.FORMAT_KEY: image.format.encode(),
    tfrecord.HEIGHT_KEY: image.height,
    tfrecord.WIDTH_KEY: image.width,
    tfrecord.CHANNELS_KEY: image.channels,
    tfrecord.COLORSPACE_KEY: image.colorspace.encode(),
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
