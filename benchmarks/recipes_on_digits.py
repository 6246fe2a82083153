"""Three recipes on the digits, several seeds each: accuracy, raw and averaged.

  make quickstart   # prepares the digits
  .venv/bin/python benchmarks/recipes_on_digits.py --seeds=3

Everything but optimizer and learning rate is that of gin/digits.gin. Writes curves to
docs/recipes_on_digits.png and prints the table of docs/benchmarks.md.
"""

import dataclasses
import statistics

from mnv2_hpu.cli import process

process.set_up()

import gin
import matplotlib as mpl
import tensorflow as tf
from absl import app, flags
from matplotlib import pyplot as plt
from official.core import task_factory

import mnv2_hpu
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import classification_recipe, gin_files, image_classification
from mnv2_hpu.reporting.progress import Progress

_DATA_DIR = flags.DEFINE_string("data_dir", "build/quickstart/tfrecords", "Digits.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each recipe.")
_EVALUATIONS = flags.DEFINE_integer("evaluations", 6, "Points of a curve.")
_PICTURE = flags.DEFINE_string("picture", "docs/recipes_on_digits.png", "File.")

# What each recipe changes in gin/digits.gin; Adam's learning rate is Keras' default.
RECIPES = {
  "slim: RMSProp, epsilon 1.0": {
    "optimizer": "rmsprop_tf1",
    "epsilon": 1.0,
    "learning_rate": 0.045,
    "warmup_epochs": 0.0,
    "weight_decay": 4e-5,
  },
  "Adam": {
    "optimizer": "adam",
    "learning_rate": 0.001,
    "warmup_epochs": 0.0,
    "weight_decay": 4e-5,
  },
  # 0.008 for 128 images, as mobilenet_imagenet; one epoch of warm-up of 30.
  "Model Garden: RMSProp, epsilon 0.002": {},
}


def _accuracy(task, model, optimizer, metrics, dataset, averaged):
  """Share of the held-out images that the raw or the averaged weights get right."""
  if averaged:
    optimizer.swap_weights()
  for metric in metrics:
    metric.reset_states()
  for batch in dataset:
    task.validation_step(batch, model, metrics)
  if averaged:
    optimizer.swap_weights()
  return float(metrics[0].result())


def train(recipe, progress, done):
  """Returns the curve of a run: (step, raw accuracy, averaged accuracy)."""
  params = image_classification.experiment(recipe)
  task = task_factory.get_task(params.task)
  model = task.build_model()
  optimizer = task.create_optimizer(params.trainer.optimizer_config, params.runtime)
  optimizer.shadow_copy(model)
  batches = iter(task.build_inputs(params.task.train_data))
  held_out = task.build_inputs(params.task.validation_data)
  metrics = task.build_metrics(training=False)

  @tf.function
  def steps(count):
    for _ in tf.range(count):
      task.train_step(next(batches), model, optimizer)

  task.validation_step = tf.function(task.validation_step)
  curve = []
  per_point = params.trainer.train_steps // _EVALUATIONS.value
  for point in range(1, _EVALUATIONS.value + 1):
    steps(tf.constant(per_point))
    raw, averaged = (
      _accuracy(task, model, optimizer, metrics, held_out, which)
      for which in (False, True)
    )
    curve.append((point * per_point, raw, averaged))
    progress.update(done + point, raw=raw, averaged=averaged)
  keras.backend.clear_session()
  return curve


def _draw(curves):
  figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), sharey=True, dpi=120)
  for column, title in ((1, "raw weights"), (2, "averaged weights")):
    for color, (name, runs) in zip(("C0", "C1", "C2"), curves.items(), strict=True):
      for number, run in enumerate(runs):
        axes[column - 1].plot(
          [point[0] for point in run],
          [point[column] for point in run],
          color=color,
          marker=".",
          label=None if number else name,
        )
    axes[column - 1].set(title=title, xlabel="step", ylim=(0.85, 1.0))
    axes[column - 1].grid(alpha=0.3)
  axes[0].set_ylabel("top-1, 359 held-out digits")
  axes[0].legend(loc="lower right")
  figure.tight_layout()
  figure.savefig(_PICTURE.value)


def main(argv):
  """Trains every recipe with every seed; prints the table."""
  del argv
  mpl.use("Agg")
  mnv2_hpu.register()
  gin.parse_config_files_and_bindings(
    [gin_files.path("digits.gin")], [f"DATA_DIR = '{_DATA_DIR.value}'"]
  )
  base = classification_recipe.configured_recipe()
  points = len(RECIPES) * _SEEDS.value * _EVALUATIONS.value
  curves, done = {}, 0
  with Progress(points, "evaluation") as progress:
    for name, changes in RECIPES.items():
      curves[name] = []
      for seed in range(_SEEDS.value):
        recipe = dataclasses.replace(base, seed=seed, **changes)
        curves[name].append(train(recipe, progress, done))
        done += _EVALUATIONS.value
  _draw(curves)
  print("| recipe | raw: mean (least to most) | averaged: mean (least to most) |")
  print("|---|---|---|")
  for name, runs in curves.items():
    cells = []
    for column in (1, 2):
      values = [run[-1][column] for run in runs]
      cells.append(
        f"{statistics.mean(values):.2%} ({min(values):.2%} to {max(values):.2%})"
      )
    print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
  app.run(main)
