"""Encoded images and labels of TFRecords, in file order, as an export takes them."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from mnv2_hpu.dataloaders import image_decoding

BATCH_SIZE = 64


def read_examples(
  files: Sequence[str], fields: Mapping[str, str]
) -> Iterator[tuple[tf.Tensor, np.ndarray]]:
  """Yields encoded images, strings `[batch]`, and labels `[batch]`, in file order.

  Args:
    files: Paths of TFRecords.
    fields: Names of the features, as `image_field_key` and `label_field_key`.
  """
  image_key, label_key = fields["image_field_key"], fields["label_field_key"]
  features = {
    image_key: tf.io.FixedLenFeature([], tf.string),
    label_key: tf.io.FixedLenFeature([], tf.int64),
  }
  for records in tf.data.TFRecordDataset(files).batch(BATCH_SIZE):
    examples = tf.io.parse_example(records, features)
    yield examples[image_key], examples[label_key].numpy()


def read_images(
  files: Sequence[str], fields: Mapping[str, str], indices: Sequence[int]
) -> list[np.ndarray]:
  """Returns images, uint8 `[height, width, 3]` each.

  Args:
    files: Paths of TFRecords.
    fields: Names of the features, as for `read_examples`.
    indices: Numbers of the records, in file order.
  """
  encoded: dict[int, tf.Tensor] = {}
  start = 0
  for images, _ in read_examples(files, fields):
    batch = range(start, start + len(images))
    encoded |= {i: images[i - start] for i in indices if i in batch}
    start = batch.stop
  return [image_decoding.decode_image(encoded[i]).numpy() for i in indices]


def draw_images(
  files: Sequence[str], fields: Mapping[str, str], count: int, seed: int
) -> list[bytes]:
  """Returns encoded images, drawn by a seed: the first ones of files in a drawn order.

  No more is read than is returned, however large the data set; the order within a file
  is that of its preparation, which is random.

  Args:
    files: Paths of TFRecords.
    fields: Names of the features, as for `read_examples`.
    count: Images to return, where there are so many.
    seed: Seed of the order of the files.
  """
  order = np.random.default_rng(seed).permutation(len(files))
  share = -(-count // len(files))
  key = fields["image_field_key"]
  features = {key: tf.io.FixedLenFeature([], tf.string)}
  paths = tf.data.Dataset.from_tensor_slices([files[i] for i in order])
  records = paths.flat_map(lambda path: tf.data.TFRecordDataset(path).take(share))
  examples = (tf.io.parse_single_example(r, features) for r in records.take(count))
  return [example[key].numpy() for example in examples]
