"""The record of one image, in the layout that slim and Model Garden read."""

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


def encode_example(features: Mapping[str, bytes | int]) -> bytes:
  """Returns a serialized `tf.train.Example` of single values, keys in sorted order."""
  from tensorflow.core.example import example_pb2

  example = example_pb2.Example()
  for key, value in features.items():
    feature = example.features.feature[key]
    if isinstance(value, int):
      feature.int64_list.value.append(value)
    else:
      feature.bytes_list.value.append(value)
  return example.SerializeToString(deterministic=True)
