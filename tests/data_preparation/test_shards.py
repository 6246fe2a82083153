import helpers_images
import tensorflow as tf
from official.vision.dataloaders import classification_input

from mnv2_hpu import tfrecord
from mnv2_hpu.data_preparation import images, shards
from mnv2_hpu.data_preparation.listing import SourceImage


def test_model_garden_decodes_the_record():
  data = helpers_images.jpeg(5)
  record = shards.serialize(
    images.read(data), SourceImage("sept/5.jpg", 7), "sept"
  ).data
  decoded = classification_input.Decoder().decode(tf.constant(record))
  assert decoded["image/class/label"].numpy() == 7
  assert decoded["image/encoded"].numpy() == data


def test_layout_is_slims():
  stored = images.read(helpers_images.encoded("JPEG", mode="L"))
  record = shards.serialize(stored, SourceImage("thé/caf\udce9.jpg", 1), "thé").data
  read = tf.io.parse_single_example(
    record,
    {
      "image/height": tf.io.FixedLenFeature([], tf.int64),
      "image/width": tf.io.FixedLenFeature([], tf.int64),
      "image/channels": tf.io.FixedLenFeature([], tf.int64),
      "image/format": tf.io.FixedLenFeature([], tf.string),
      "image/colorspace": tf.io.FixedLenFeature([], tf.string),
      "image/class/text": tf.io.FixedLenFeature([], tf.string),
      "image/filename": tf.io.FixedLenFeature([], tf.string),
    },
  )
  assert {key: value.numpy() for key, value in read.items()} == {
    "image/height": 24,
    "image/width": 36,
    "image/channels": 1,
    "image/format": b"JPEG",
    "image/colorspace": b"Grayscale",
    "image/class/text": "thé".encode(),
    "image/filename": "thé/caf".encode() + b"\xe9.jpg",
  }


def test_imagenet_layout_is_that_of_the_tpu_models():
  stored = images.read(helpers_images.jpeg())
  source = SourceImage("n01440764/n01440764_18.JPEG", 1)
  record = shards.serialize_imagenet(stored, source, "n01440764").data
  parsed = tfrecord.parse_example(record)
  assert {key: value for key, (value,) in parsed.items()} == {
    "image/encoded": stored.encoded,
    "image/class/label": 1,
    "image/class/synset": b"n01440764",
    "image/filename": b"n01440764_18.JPEG",
    "image/height": 24,
    "image/width": 36,
    "image/format": b"JPEG",
    "image/colorspace": b"RGB",
    "image/channels": 3,
  }
