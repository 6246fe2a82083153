"""TFRecords of small images, each with a label of its own."""

import numpy as np
import tensorflow as tf


def write_files(directory, sizes):
  """One file per entry, of that many examples; labels count through all of them."""
  random = np.random.RandomState(0)
  label = 0
  for shard, size in enumerate(sizes):
    path = directory / f"train-{shard:05d}-of-{len(sizes):05d}"
    with tf.io.TFRecordWriter(str(path)) as writer:
      for _ in range(size):
        image = tf.io.encode_jpeg(random.randint(0, 256, (12, 9, 3)).astype(np.uint8))
        feature = {
          "image/encoded": tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[image.numpy()])
          ),
          "image/class/label": tf.train.Feature(
            int64_list=tf.train.Int64List(value=[label])
          ),
        }
        example = tf.train.Example(features=tf.train.Features(feature=feature))
        writer.write(example.SerializeToString())
        label += 1
  return str(directory / "train-*")
