"""Held-out accuracy of small folders, 100 to 3,000 images, from nothing and weights.

  .venv/bin/python benchmarks/small_folders.py

Two tasks: scikit-learn's digits, and crops of three photos (`photo_crops`). Each is
learned by gin/image_folder.gin as it was (`BEFORE`), as it is, and by gin/fine_tune.gin
from the network that 1,000 images of the other task gave. First the case that had
failed: 160 photos in 5 classes, 96 px. Prints the tables of docs/benchmarks.md.
"""

import dataclasses
import time
from pathlib import Path

from mnv2_hpu import tf_environment

tf_environment.configure()

import gin
import photo_crops
import tensorflow as tf
from absl import app, flags
from official.core import task_factory

import mnv2_hpu
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import gin_files, image_classification
from mnv2_hpu.configs.recipe import configured_recipe
from mnv2_hpu.data_preparation import digits, prepare

_OUTPUT_DIR = flags.DEFINE_string("output_dir", "build/small_folders", "Data, weights.")
_SIZES = flags.DEFINE_list("sizes", ["100", "300", "1000", "3000"], "Training images.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 64, "Pixels of the tables' networks.")

# What gin/image_folder.gin held before its values followed from the number of images.
BEFORE = {
  "batch_size": 96,
  "learning_rate": 0.045,
  "train_epochs": 50,
  "norm_momentum": 0.99,
  "ema_decay": 0.999,
  "min_warmup_fraction": 0.0,
}
NUM_DIGITS = 1438  # that are not held out
START_COUNT = 1000  # images of the other task that a start was trained on
OTHER = {"digits": "photos", "photos": "digits"}


def _write_digits(folder, count, size):
  """Writes the digits, of which the first `count` are trained on."""
  del size  # scikit-learn's
  digits.write_digits(str(folder))
  for label in sorted((folder / "train").iterdir()):
    for path in sorted(label.iterdir())[count // 10 :]:
      path.unlink()


def _write_photos(folder, count, size):
  photo_crops.write_crops(folder, count, 400, size)


def _write_case(folder, count, size):
  photo_crops.write_crops(folder, count, 200, size, photo_crops.FIVE)


WRITERS = {"digits": _write_digits, "photos": _write_photos, "case": _write_case}


def data_dir(task, count, size):
  """Returns the records of a task with so many training images, made if missing."""
  folder = Path(_OUTPUT_DIR.value) / f"{task}-{count}-{size}"
  if not (folder / "records" / "dataset.json").exists():
    WRITERS[task](folder / "images", count, size)
    prepare.prepare(
      prepare.PreparationOptions(str(folder / "images"), str(folder / "records"))
    )
  return str(folder / "records")


def recipe_of(gin_file, records, size, start="", **values):
  """Returns the recipe of a gin file at width 0.35, some of its values replaced."""
  gin.clear_config()
  bindings = [f"DATA_DIR = '{records}'", f"START = '{start}'"]
  gin.parse_config_files_and_bindings([gin_files.path(gin_file)], bindings)
  network = {"image_size": size, "width_multiplier": 0.35, "cache": True, **values}
  if start:  # the other task's classes are others, though as many
    network["init_checkpoint_modules"] = "backbone"
  return dataclasses.replace(configured_recipe(), **network)


def train(recipe, save_to=None):
  """Trains; returns steps, seconds, and the accuracy of raw and of EMA weights."""
  params = image_classification.experiment(recipe)
  strategy = tf.distribute.OneDeviceStrategy("CPU:0")
  began = time.monotonic()
  with strategy.scope():
    task = task_factory.get_task(params.task)
    model = task.build_model()
    task.initialize(model)
    optimizer = task.create_optimizer(params.trainer.optimizer_config, params.runtime)
    optimizer.shadow_copy(model)
    metrics = task.build_metrics(training=False)
  batches = iter(task.build_inputs(params.task.train_data))
  held_out = task.build_inputs(params.task.validation_data)

  @tf.function
  def steps(count):
    for _ in tf.range(count):
      strategy.run(task.train_step, args=(next(batches), model, optimizer))

  @tf.function
  def validation_step(batch):
    strategy.run(task.validation_step, args=(batch, model, metrics))

  def accuracy():
    for metric in metrics:
      metric.reset_states()
    for batch in held_out:
      validation_step(batch)
    return float(metrics[0].result())

  steps(tf.constant(params.trainer.train_steps))
  raw = accuracy()
  optimizer.swap_weights()
  ema = accuracy()
  if save_to:  # the EMA weights
    tf.train.Checkpoint(model=model, backbone=model.backbone).write(save_to)
  keras.backend.clear_session()
  return params.trainer.train_steps, time.monotonic() - began, raw, ema


def print_row(cells):
  """Prints a row of a table."""
  print(f"| {' | '.join(cells)} |", flush=True)


def cell(result):
  """Returns what `train` returned, as text."""
  steps, seconds, raw, ema = result
  return f"{raw:.1%}, {ema:.1%} ({steps:,} steps, {seconds:.0f} s)"


def _case():
  records = data_dir("case", 160, 96)
  for name, values in (("before", BEFORE), ("after", {})):
    recipe = recipe_of("image_folder.gin", records, 96, **values)
    print_row(["160 photos, 5 classes, 96 px", name, cell(train(recipe))])


def main(argv):
  """Trains all; prints a row as soon as it is known."""
  del argv
  mnv2_hpu.register()
  _case()
  size = _IMAGE_SIZE.value
  starts, known = {}, {}
  for task in OTHER:
    starts[task] = str(Path(_OUTPUT_DIR.value) / f"{task}-start")
    recipe = recipe_of("image_folder.gin", data_dir(task, START_COUNT, size), size)
    known[task, START_COUNT] = train(recipe, save_to=starts[task])
  for count in map(int, _SIZES.value):
    for task, other in OTHER.items():
      records = data_dir(task, count, size)
      start = starts[other]
      results = (
        train(recipe_of("image_folder.gin", records, size, **BEFORE)),
        known.get((task, count)) or train(recipe_of("image_folder.gin", records, size)),
        train(recipe_of("fine_tune.gin", records, size, start)),
      )
      images = min(count, NUM_DIGITS) if task == "digits" else count
      print_row([task, f"{images:,}", *map(cell, results)])


if __name__ == "__main__":
  app.run(main)
