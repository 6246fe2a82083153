"""Records of images with masks, made in code: a bright square on a dark ground."""

import numpy as np
import tensorflow as tf
from helpers_detection_records import feature

NUM_CLASSES = 3


def scene(seed, size=(33, 41)):
  """An image, uint8 `[height, width, 3]`, and its mask `[..., 1]`: two squares."""
  random = np.random.RandomState(seed)
  image = random.randint(0, 60, (*size, 3)).astype(np.uint8)
  mask = np.zeros([*size, 1], np.uint8)
  for label in (1, 2):
    top, left = (random.randint(0, side - 12) for side in size)
    image[top : top + 12, left : left + 12, label] = 255
    image[top : top + 12, left : left + 12, 3 - label] = 0
    mask[top : top + 12, left : left + 12] = label
  return image, mask


def record(image, mask, **changes):
  """Returns an example; `changes` by key, `/` written `__`, None drops one."""
  values = {
    "image/encoded": tf.io.encode_png(image).numpy(),
    "image/segmentation/class/encoded": tf.io.encode_png(mask).numpy(),
    "image/height": image.shape[0],
    "image/width": image.shape[1],
  }
  values |= {name.replace("__", "/"): value for name, value in changes.items()}
  features = {k: feature(v) for k, v in values.items() if v is not None}
  example = tf.train.Example(features=tf.train.Features(feature=features))
  return example.SerializeToString()


def write(path, records):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for written in records:
      writer.write(written)
  return str(path)


def write_scenes(folder, num_train=12, num_validation=5, size=(33, 41)):
  """Writes `train-…` and `validation-…`; returns the folder."""
  splits = {"train": (0, num_train), "validation": (1000, num_validation)}
  for split, (first, number) in splits.items():
    scenes = [record(*scene(first + i, size)) for i in range(number)]
    write(folder / f"{split}-00000-of-00001", scenes)
  return folder
