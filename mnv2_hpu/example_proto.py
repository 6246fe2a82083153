"""Serialized `tf.train.Example`s, without protobuf's copies of the image."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Value = bytes | int | Sequence[bytes] | npt.NDArray[Any]

# Tags of `tensorflow/core/example/{example,feature}.proto`: field number and wire type.
_FIELD_1 = b"\x0a"  # Example.features, Features.feature, key, bytes_list, values
_FIELD_2 = b"\x12"  # the value of an entry of Features.feature, Feature.float_list
_FIELD_3 = b"\x1a"  # Feature.int64_list


def encode_example(features: Mapping[str, Value]) -> bytes:
  """Returns a serialized `tf.train.Example`, keys in sorted order.

  The bytes are those of protobuf's deterministic serialization, without its copies of
  the image: 12 us instead of 70, of the 740 that an image takes in all.

  Args:
    features: Values by key: one, or a list of bytes, or an array `[n]` of floats, which
      are stored as float32, or of integers; integers are not negative.
  """
  parts: list[bytes] = []
  for key, value in sorted(features.items()):
    if isinstance(value, int):
      parts.append(_integer_entry(key, value))
    elif isinstance(value, bytes):
      parts += _entry_head(key, _FIELD_1, len(value)), value
    else:
      parts.append(_list_entry(key, value))
  return b"".join((_head(_FIELD_1, sum(map(len, parts))), *parts))


def _list_entry(key: str, values: Sequence[bytes] | npt.NDArray[Any]) -> bytes:
  if not isinstance(values, np.ndarray):
    content = b"".join(_head(_FIELD_1, len(value)) + value for value in values)
    return _entry(key, _FIELD_1, content)
  if values.dtype.kind == "f":
    kind, packed = _FIELD_2, values.astype("<f4").tobytes()
  else:
    kind, packed = _FIELD_3, b"".join(map(_varint, values.tolist()))
  return _entry(key, kind, _head(_FIELD_1, len(packed)) + packed if packed else b"")


@functools.lru_cache(maxsize=4096)
def _integer_entry(key: str, value: int) -> bytes:
  packed = _varint(value)
  return _entry_head(key, _FIELD_3, len(packed)) + packed


@functools.lru_cache(maxsize=4096)
def _entry_head(key: str, kind: bytes, size: int) -> bytes:
  """Returns what precedes a value of `size` bytes in its entry of the map."""
  values = _head(_FIELD_1, size)
  return _list_head(key, kind, len(values) + size) + values


def _entry(key: str, kind: bytes, content: bytes) -> bytes:
  return _list_head(key, kind, len(content)) + content


def _list_head(key: str, kind: bytes, size: int) -> bytes:
  """Returns what precedes a list of `size` bytes in its entry of the map."""
  name = key.encode()
  feature = _head(kind, size)
  entry = _head(_FIELD_1, len(name)) + name + _head(_FIELD_2, len(feature) + size)
  return _head(_FIELD_1, len(entry) + len(feature) + size) + entry + feature


def _head(tag: bytes, size: int) -> bytes:
  return tag + _varint(size)


def _varint(value: int) -> bytes:
  encoded = bytearray()
  while value >= 0x80:
    encoded.append(value & 0x7F | 0x80)
    value >>= 7
  encoded.append(value)
  return bytes(encoded)
