"""JPEGs of ImageNet's sizes and bytes, for benchmarks that would read ImageNet."""

import io

import numpy as np
from PIL import Image

# Height, width, and share of the images: the most frequent of ILSVRC 2012, then some of
# its small and large ones; 0.21 megapixels on average (the set's mean: 0.18).
SIZES = (
  (375, 500, 0.45), (500, 375, 0.15), (333, 500, 0.12), (500, 333, 0.05),
  (500, 500, 0.05), (281, 500, 0.05), (240, 320, 0.05), (150, 200, 0.04),
  (480, 640, 0.02), (1200, 1600, 0.02),
)  # fmt: skip
QUALITY = 92  # with the noise below: 122 kB on average; ILSVRC 2012 has about 110
NOISE = 12.0  # standard deviation of a pixel, of 255
SHARDS = 8


def jpeg(random, height, width):
  """An image of smooth colours under noise."""
  coarse = random.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
  smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
  noisy = np.asarray(smooth) + random.normal(0, NOISE, (height, width, 1))
  pixels = np.clip(noisy, 0, 255).astype(np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
  return buffer.getvalue()


def draw(random, count):
  """Returns so many encoded images, their sizes drawn by share."""
  shares = np.array([share for *_, share in SIZES])
  sizes = random.choice(len(SIZES), count, p=shares / shares.sum())
  return [jpeg(random, *SIZES[size][:2]) for size in sizes]


def write_records(folder, count, num_classes, max_side=0):
  """Writes a training split of so many images; returns a JPEG's mean size in bytes.

  Args:
    folder: Path that exists.
    count: Number of images.
    num_classes: Number of labels.
    max_side: As `mnv2-prepare-data` has it; 0 keeps the images as they are.
  """
  import tensorflow as tf

  from mnv2_hpu.data_preparation import images as image_files
  from mnv2_hpu.data_preparation import shrinking

  random = np.random.default_rng(0)
  how = shrinking.Shrinking(max_side)
  images = [
    shrinking.shrink(image_files.read(encoded), how).encoded
    for encoded in draw(random, count)
  ]
  for shard in range(SHARDS):
    name = f"train-{shard:05d}-of-{SHARDS:05d}"
    with tf.io.TFRecordWriter(str(folder / name)) as writer:
      for encoded in images[shard::SHARDS]:
        feature = {
          "image/encoded": tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[encoded])
          ),
          "image/class/label": tf.train.Feature(
            int64_list=tf.train.Int64List(value=[int(random.integers(1, num_classes))])
          ),
        }
        example = tf.train.Example(features=tf.train.Features(feature=feature))
        writer.write(example.SerializeToString())
  return sum(map(len, images)) / len(images)
