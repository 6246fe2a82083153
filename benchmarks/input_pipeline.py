"""Images per second of the input pipelines: this project's, Model Garden's, slim's.

Writes TFRecords of JPEGs of ImageNet's sizes into a temporary folder, and reads them
with each pipeline in turn (`turns`).

  python benchmarks/input_pipeline.py --rounds=5 --seconds=5

With --max_sides, what `mnv2-prepare-data --max_side` gains: training's pipeline on the
images as they are (0) and scaled down.

  python benchmarks/input_pipeline.py --max_sides=0,384,320,256
"""

import functools
import os
import tempfile
import time
import unittest.mock
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import photographs
import tensorflow as tf
import turns
from absl import app, flags
from official.vision.configs import image_classification as upstream_configs
from official.vision.tasks import image_classification as upstream_task

from mnv2_hpu.configs.image_classification import DataConfig
from mnv2_hpu.dataloaders import classification_input
from mnv2_hpu.dataloaders.input_fields import PreprocessingOptions
from mnv2_hpu.native import library

_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images a batch.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "Height and width, in pixels.")
_IMAGES = flags.DEFINE_integer("images", 512, "JPEGs that are made.")
_ROUNDS = flags.DEFINE_integer(
  "rounds", 5, "Times that each pipeline is measured.", lower_bound=1
)
_SECONDS = flags.DEFINE_float("seconds", 5.0, "Length of one measurement.")
_ONLY = flags.DEFINE_list("only", [], "Pipelines to measure; all by default.")
_MAX_SIDES = flags.DEFINE_list("max_sides", [], "Longer sides to compare; 0: as it is.")

CLASSES = 1001
READINGS = 8  # An evaluation reads the images so often: it is more than start and end.
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
    num_examples=_IMAGES.value * (1 if is_training else READINGS),
    shuffle_buffer_size=min(_IMAGES.value, 512),
    preprocessing_options=PreprocessingOptions(**CROP, **preprocessing),
  )
  size = (_IMAGE_SIZE.value, _IMAGE_SIZE.value)
  return classification_input.build_dataset(data, size, CLASSES)


def _without_native(pattern, is_training):
  with unittest.mock.patch.dict(os.environ, {library.SWITCH: "0"}):
    return ours(pattern, is_training)


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
        **{name.removeprefix("crop_"): value for name, value in CROP.items()},
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


TRAINING = {
  "mnv2_hpu": lambda pattern: ours(pattern, True),
  "mnv2_hpu, reduced decoding": lambda pattern: ours(
    pattern, True, reduced_decoding=True
  ),
  "mnv2_hpu, TensorFlow's operations": lambda pattern: _without_native(pattern, True),
  "mnv2_hpu, colors on the device": lambda pattern: ours(
    pattern, True, preprocess_on_device=True
  ),
  "mnv2_hpu, no colors": lambda pattern: ours(pattern, True, color_distortion=False),
  "Model Garden, which has no colors": lambda pattern: _model_garden(pattern, True),
  "slim's operations": lambda pattern: _slim(pattern, True),
  "decoding alone": lambda pattern: _bare(pattern, True),
}
EVALUATION = {
  "mnv2_hpu": lambda pattern: ours(pattern, False),
  "mnv2_hpu, TensorFlow's operations": lambda pattern: _without_native(pattern, False),
  "Model Garden": lambda pattern: _model_garden(pattern, False),
  "slim's operations": lambda pattern: _slim(pattern, False),
}


def rate(dataset):
  """Images per second after a warm-up."""
  iterator = iter(dataset.repeat())  # evaluations end
  for _ in range(8):
    next(iterator)
  batches = 0
  start = time.perf_counter()
  while time.perf_counter() - start < _SECONDS.value:
    next(iterator)
    batches += 1
  return batches * _BATCH_SIZE.value / (time.perf_counter() - start)


def _of_sides(folder, sides):
  """Returns training's pipeline on images of each longer side, and a JPEG's bytes."""
  datasets, sizes = {}, []
  for side in sides:
    of_side = folder / str(side)
    of_side.mkdir()
    sizes.append(photographs.write_records(of_side, _IMAGES.value, CLASSES, side))
    name = f"{side or 'all'} px, {sizes[-1] / 1e3:.0f} kB a JPEG"
    datasets["training", name] = ours(f"{of_side}/train-*", True)
  return datasets, sizes[0]


def _of_pipelines(folder):
  """Returns all pipelines on the same images, and a JPEG's bytes."""
  mean_bytes = photographs.write_records(folder, _IMAGES.value, CLASSES)
  evaluated = folder / "evaluated"
  evaluated.mkdir()
  for reading in range(READINGS):
    for path in folder.glob("train-*"):
      (evaluated / f"{reading}-{path.name}").symlink_to(path)
  kinds = (
    ("training", TRAINING, f"{folder}/train-*"),
    ("evaluation", EVALUATION, f"{evaluated}/*"),
  )
  datasets = {
    (kind, name): build(pattern)
    for kind, pipelines, pattern in kinds
    for name, build in pipelines.items()
    if not _ONLY.value or name in _ONLY.value
  }
  return datasets, mean_bytes


def main(argv):
  """Makes the data, measures, prints a table and keeps it."""
  del argv
  sides = [*map(int, _MAX_SIDES.value)]
  with tempfile.TemporaryDirectory() as work:
    folder = Path(work)
    made = _of_sides(folder, sides) if sides else _of_pipelines(folder)
    datasets, mean_bytes = made
    measures = {
      case: functools.partial(rate, dataset) for case, dataset in datasets.items()
    }
    values = turns.take_turns(measures, _ROUNDS.value, warm_up=False)
  turns.publish(
    "smaller_records" if sides else "input_pipeline",
    f"Input: {_IMAGES.value} JPEGs of {mean_bytes / 1e3:.0f} kB on average, batch "
    f"{_BATCH_SIZE.value}, {_IMAGE_SIZE.value} px",
    "images/s",
    values,
    more_is_better=True,
  )


if __name__ == "__main__":
  app.run(main)
