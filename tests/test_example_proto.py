import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu import example_proto


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 16_383, 16_384, 2_200_000])
def test_bytes_are_those_of_protobuf(size):
  values = {
    "image/encoded": bytes(size),
    "image/class/label": size,
    "image/filename": "é.jpg".encode(),
    "empty": b"",
  }
  example = tf.train.Example()
  for key, value in values.items():
    feature = example.features.feature[key]
    if isinstance(value, bytes):
      feature.bytes_list.value.append(value)
    else:
      feature.int64_list.value.append(value)
  assert example_proto.encode_example(values) == example.SerializeToString(
    deterministic=True
  )


def test_bytes_do_not_depend_on_the_order_of_the_features():
  """A preparation that was killed continues with the same bytes."""
  values = {"image/encoded": b"jpeg", "image/class/label": 300, "empty": b""}
  encoded = example_proto.encode_example(values)
  assert encoded == example_proto.encode_example(dict(reversed(values.items())))
  keys = [encoded.index(key.encode()) for key in sorted(values)]
  assert keys == sorted(keys)


@pytest.mark.parametrize("size", [0, 1, 40])
def test_lists_are_those_of_protobuf(size):
  values = {
    "floats": np.linspace(0, 1, size),
    "integers": np.arange(size) * 1000,
    "flags": np.ones(size, np.int64),
    "names": [b"x" * i for i in range(size)],
  }
  example = tf.train.Example()
  feature = example.features.feature
  feature["floats"].float_list.value.extend(values["floats"])
  feature["integers"].int64_list.value.extend(values["integers"])
  feature["flags"].int64_list.value.extend(values["flags"])
  feature["names"].bytes_list.value.extend(values["names"])
  for key, kind in (("floats", "float"), ("integers", "int64"), ("flags", "int64")):
    getattr(feature[key], f"{kind}_list").SetInParent()
  feature["names"].bytes_list.SetInParent()
  expected = example.SerializeToString(deterministic=True)
  assert example_proto.encode_example(values) == expected
