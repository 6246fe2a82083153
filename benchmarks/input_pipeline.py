"""Images per second of the input pipelines: this project's, Model Garden's, slim's.

Writes TFRecords of JPEGs of ImageNet's sizes into a temporary folder, and reads them
with each pipeline in turn, round by round (A B C A B C …), so that a machine that slows
down slows all. Prints medians over the rounds, and the medians of the ratios within
each round; likewise of the processor's time for an image, which other work on the
machine disturbs less.

  python benchmarks/input_pipeline.py --rounds=5 --seconds=5

With --max_sides, what `mnv2-prepare-data --max_side` gains: training's pipeline on the
images as they are (0) and scaled down.

  python benchmarks/input_pipeline.py --max_sides=0,384,320,256
"""

import os
import platform
import resource
import statistics
import tempfile
import time
import unittest.mock
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import photographs
import tensorflow as tf
from absl import app, flags
from official.vision.configs import image_classification as upstream_configs
from official.vision.tasks import image_classification as upstream_task

from mnv2_hpu import compat
from mnv2_hpu.configs.image_classification import DataConfig
from mnv2_hpu.dataloaders import classification_input
from mnv2_hpu.dataloaders.input_fields import PreprocessingOptions
from mnv2_hpu.native import library

_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images a batch.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "Height and width, in pixels.")
_IMAGES = flags.DEFINE_integer("images", 512, "JPEGs that are made.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Times that each pipeline is measured.")
_SECONDS = flags.DEFINE_float("seconds", 5.0, "Length of one measurement.")
_ONLY = flags.DEFINE_list("only", [], "Pipelines to measure; all by default.")
_MAX_SIDES = flags.DEFINE_list("max_sides", [], "Longer sides to compare; 0: as it is.")

CLASSES = 1001
# Model Garden's crop, which knows no other aspect ratios.
CROP = {
  "crop_area_range": (0.1, 1.0),
  "crop_aspect_ratio_range": (3 / 4, 4 / 3),
  "crop_min_object_covered": 0.1,
}


def ours(pattern, is_training, service_address="", **preprocessing):
  """This project's pipeline, on the workers of a data service where one is named."""
  data = DataConfig(
    service_address=service_address,
    deterministic=not service_address,
    input_path=pattern,
    global_batch_size=_BATCH_SIZE.value,
    is_training=is_training,
    num_examples=_IMAGES.value,
    shuffle_buffer_size=min(_IMAGES.value, 512),
    preprocessing_options=PreprocessingOptions(**CROP, **preprocessing),
  )
  size = (_IMAGE_SIZE.value, _IMAGE_SIZE.value)
  return classification_input.build_dataset(data, size, CLASSES)


def _without_native(pattern):
  with unittest.mock.patch.dict(os.environ, {library.SWITCH: "0"}):
    return ours(pattern, True)


def _model_garden(pattern, is_training):
  """Model Garden's own task, with its defaults."""
  config = upstream_configs.ImageClassificationTask(
    model=upstream_configs.ImageClassificationModel(
      num_classes=CLASSES, input_size=[_IMAGE_SIZE.value, _IMAGE_SIZE.value, 3]
    )
  )
  data = upstream_configs.DataConfig(
    input_path=pattern,
    is_training=is_training,
    global_batch_size=_BATCH_SIZE.value,
    shuffle_buffer_size=_IMAGES.value,
    crop_area_range=CROP["crop_area_range"],
    dtype="float32",
  )
  return upstream_task.ImageClassificationTask(config).build_inputs(data)


def _records(pattern, is_training):
  """Encoded images and labels, read as Model Garden reads them."""
  features = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
  }
  files = tf.data.Dataset.list_files(pattern)
  records = files.interleave(
    tf.data.TFRecordDataset, cycle_length=8, num_parallel_calls=tf.data.AUTOTUNE
  )
  if is_training:
    records = records.shuffle(_IMAGES.value).repeat()

  def parse(record):
    example = tf.io.parse_single_example(record, features)
    return example["image/encoded"], example["image/class/label"]

  return records.map(parse, num_parallel_calls=tf.data.AUTOTUNE)


def _slim(pattern, is_training):
  """The operations of slim's `inception_v2` in its order, in tf.data."""
  size = [_IMAGE_SIZE.value, _IMAGE_SIZE.value]

  def preprocess(encoded, label):
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    image = tf.image.convert_image_dtype(image, tf.float32)
    if is_training:
      begin, crop, _ = tf.image.sample_distorted_bounding_box(
        tf.shape(image),
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
        **CROP,
      )
      image = tf.compat.v1.image.resize(tf.slice(image, begin, crop), size)
      image = tf.image.random_flip_left_right(image)
      image = tf.image.random_brightness(image, 32 / 255)
      image = tf.image.random_saturation(image, 0.5, 1.5)
      image = tf.clip_by_value(image, 0.0, 1.0)
    else:
      image = tf.compat.v1.image.resize(tf.image.central_crop(image, 0.875), size)
    return (tf.ensure_shape(image, [*size, 3]) - 0.5) * 2.0, label

  parsed = _records(pattern, is_training)
  images = parsed.map(preprocess, num_parallel_calls=tf.data.AUTOTUNE)
  return images.batch(_BATCH_SIZE.value).prefetch(tf.data.AUTOTUNE)


def _bare(pattern, is_training):
  """Nothing but libjpeg-turbo: whole images, of which only the size is kept."""

  def decode(encoded, label):
    return tf.shape(tf.io.decode_jpeg(encoded, channels=3)), label

  decoded = _records(pattern, is_training).map(
    decode, num_parallel_calls=tf.data.AUTOTUNE
  )
  return decoded.batch(_BATCH_SIZE.value).prefetch(tf.data.AUTOTUNE)


PIPELINES = {
  "mnv2_hpu training": lambda pattern: ours(pattern, True),
  "mnv2_hpu reduced decoding": lambda pattern: ours(
    pattern, True, reduced_decoding=True
  ),
  "mnv2_hpu by TensorFlow's operations": _without_native,
  "mnv2_hpu without colours": lambda pattern: ours(
    pattern, True, color_distortion=False
  ),
  "Model Garden training": lambda pattern: _model_garden(pattern, True),
  "slim's operations training": lambda pattern: _slim(pattern, True),
  "mnv2_hpu evaluation": lambda pattern: ours(pattern, False),
  "Model Garden evaluation": lambda pattern: _model_garden(pattern, False),
  "slim's operations evaluation": lambda pattern: _slim(pattern, False),
  "decoding alone": lambda pattern: _bare(pattern, True),
}


def _processor_seconds():
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


def measure(dataset):
  """Images per second, and processor milliseconds an image, after a warm-up."""
  iterator = iter(dataset.repeat())  # evaluations end
  for _ in range(8):
    next(iterator)
  batches = 0
  start, processor = time.perf_counter(), _processor_seconds()
  while time.perf_counter() - start < _SECONDS.value:
    next(iterator)
    batches += 1
  seconds = time.perf_counter() - start
  images = batches * _BATCH_SIZE.value
  return images / seconds, 1000 * (_processor_seconds() - processor) / images


def print_table(rates):
  """Prints the medians of `measure`'s results by pipeline."""
  for name, values in rates.items():
    own = "evaluation" if "evaluation" in name else "training"
    base = rates.get(f"mnv2_hpu {own}", values)
    speedups = [a[0] / b[0] for a, b in zip(base, values, strict=True)]
    savings = [b[1] / a[1] for a, b in zip(base, values, strict=True)]
    print(
      f"  {name:<35} {statistics.median(v[0] for v in values):7.0f} images/s, "
      f"{statistics.median(v[1] for v in values):5.2f} ms of processor an image; "
      f"mnv2_hpu / it: {statistics.median(speedups):.2f} "
      f"({min(speedups):.2f} to {max(speedups):.2f}), by processor time "
      f"{statistics.median(savings):.2f} ({min(savings):.2f} to {max(savings):.2f})"
    )


def _of_sides(folder, sides):
  """Returns training's pipeline on images of each longer side, and a JPEG's bytes."""
  datasets, mean_bytes = {}, 0.0
  for side in sides:
    of_side = folder / str(side)
    of_side.mkdir()
    mean = photographs.write_records(of_side, _IMAGES.value, CLASSES, side)
    name = f"{side or 'all'} px, {mean / 1e3:.0f} kB a JPEG"
    datasets["mnv2_hpu training" if not side else name] = ours(
      f"{of_side}/train-*", True
    )
    mean_bytes = mean_bytes or mean
  return datasets, mean_bytes


def main(argv):
  """Makes the data, measures and prints a table."""
  del argv
  with tempfile.TemporaryDirectory() as folder:
    if _MAX_SIDES.value:
      datasets, mean_bytes = _of_sides(Path(folder), [*map(int, _MAX_SIDES.value)])
    else:
      mean_bytes = photographs.write_records(Path(folder), _IMAGES.value, CLASSES)
      names = _ONLY.value or list(PIPELINES)
      datasets = {name: PIPELINES[name](f"{folder}/train-*") for name in names}
    rates = {name: [] for name in datasets}
    for _ in range(_ROUNDS.value):
      for name, values in rates.items():
        values.append(measure(datasets[name]))
  print(
    f"{platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}, "
    f"{compat.MODEL_GARDEN} {compat.version(compat.MODEL_GARDEN)}; {_IMAGES.value} "
    f"JPEGs of {mean_bytes / 1e3:.0f} kB on average, batch {_BATCH_SIZE.value}, "
    f"{_IMAGE_SIZE.value} px, median of {_ROUNDS.value} rounds of {_SECONDS.value:g} s"
  )
  print_table(rates)


if __name__ == "__main__":
  app.run(main)
