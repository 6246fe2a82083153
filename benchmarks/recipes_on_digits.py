"""Three recipes on the digits, several seeds each: accuracy, raw and EMA weights.

  make quickstart   # prepares the digits
  .venv/bin/python benchmarks/recipes_on_digits.py --seeds=3

Everything but optimizer and learning rate is that of gin/digits.gin; the last recipe is
Model Garden's own experiment, with its task, network, input and initial values. Writes
curves to docs/recipes_on_digits.png and prints the table of docs/benchmarks.md.
"""

import dataclasses
import statistics

from mnv2_hpu import tf_environment

tf_environment.configure()

import gin
import matplotlib as mpl
import tensorflow as tf
from absl import app, flags
from matplotlib import pyplot as plt
from official.core import exp_factory, task_factory

import mnv2_hpu
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import gin_files, image_classification
from mnv2_hpu.configs.recipe import configured_recipe
from mnv2_hpu.progress import Progress

_DATA_DIR = flags.DEFINE_string("data_dir", "build/quickstart/tfrecords", "Digits.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each recipe.")
_EVALUATIONS = flags.DEFINE_integer("evaluations", 6, "Points of a curve.")
_FIGURE_PATH = flags.DEFINE_string("figure_path", "docs/recipes_on_digits.png", "File.")

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
  "gin/digits.gin: RMSProp, epsilon 0.002": {},
}
STOCK = "stock Model Garden, the same numbers"


def _accuracy(validation_step, optimizer, metrics, dataset, use_ema):
  """Returns the accuracy of the raw or the EMA weights on the held-out images."""
  if use_ema:
    optimizer.swap_weights()
  for metric in metrics:
    metric.reset_states()
  for batch in dataset:
    validation_step(batch)
  if use_ema:
    optimizer.swap_weights()
  return float(metrics[0].result())


def stock_experiment(recipe):
  """Model Garden's `mobilenet_imagenet` and its code with this recipe's numbers."""
  ours = image_classification.experiment(recipe)
  params = exp_factory.get_exp_config("mobilenet_imagenet")
  size = recipe.image_size
  data = {
    "decode_jpeg_only": False,  # the digits are PNG
    "aug_rand_hflip": recipe.flip,
    "crop_area_range": recipe.crop_area_range,
    "center_crop_fraction": recipe.central_fraction,
    "seed": recipe.seed,
  }
  model = {
    "num_classes": ours.task.model.num_classes,
    "input_size": [size, size, 3],
    "dropout_rate": ours.task.model.dropout_rate,
    "backbone": {"mobilenet": {"filter_size_scale": recipe.width_multiplier}},
    "norm_activation": {"norm_momentum": recipe.norm_momentum},
  }
  losses = {
    "l2_weight_decay": recipe.weight_decay,
    "label_smoothing": recipe.label_smoothing,
  }
  task = {"model": model, "losses": losses}
  for part in ("train_data", "validation_data"):
    theirs = getattr(ours.task, part)
    task[part] = {
      **data,
      "input_path": theirs.input_path,
      "global_batch_size": theirs.global_batch_size,
      "drop_remainder": False,
    }
  params.override({"task": task})
  params.trainer.optimizer_config = ours.trainer.optimizer_config
  params.trainer.train_steps = ours.trainer.train_steps
  return params


def train(params, seed, progress, done):
  """Returns the curve of a run: (step, accuracy of raw weights, of EMA weights)."""
  keras.utils.set_random_seed(seed)
  strategy = tf.distribute.OneDeviceStrategy("CPU:0")
  with strategy.scope():
    task = task_factory.get_task(params.task)
    model = task.build_model()
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

  curve = []
  per_point = params.trainer.train_steps // _EVALUATIONS.value
  for point in range(1, _EVALUATIONS.value + 1):
    steps(tf.constant(per_point))
    with strategy.scope():
      raw, ema = (
        _accuracy(validation_step, optimizer, metrics, held_out, which)
        for which in (False, True)
      )
    curve.append((point * per_point, raw, ema))
    progress.update_to(done + point, raw=raw, ema=ema)
  keras.backend.clear_session()
  return curve


def _draw(curves):
  figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, dpi=120)
  for column, title in ((1, "raw weights"), (2, "EMA weights")):
    for color, (name, runs) in zip(
      ("C0", "C1", "C2", "C3"), curves.items(), strict=True
    ):
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
  handles, labels = axes[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="lower center", ncols=4, fontsize="small")
  figure.tight_layout(rect=(0, 0.07, 1, 1))
  figure.savefig(_FIGURE_PATH.value)


def main(argv):
  """Trains every recipe with every seed; prints the table."""
  del argv
  mpl.use("Agg")
  mnv2_hpu.register()
  gin.parse_config_files_and_bindings(
    [gin_files.path("digits.gin")], [f"DATA_DIR = '{_DATA_DIR.value}'"]
  )
  base = configured_recipe()
  names = [*RECIPES, STOCK]
  points = len(names) * _SEEDS.value * _EVALUATIONS.value
  curves, done = {}, 0
  with Progress(points, "evaluation") as progress:
    for name in names:
      curves[name] = []
      experiment = (
        image_classification.experiment if name in RECIPES else stock_experiment
      )
      for seed in range(_SEEDS.value):
        recipe = dataclasses.replace(base, seed=seed, **RECIPES.get(name, {}))
        curves[name].append(train(experiment(recipe), seed, progress, done))
        done += _EVALUATIONS.value
  _draw(curves)
  print("| recipe | raw: mean (min to max) | EMA: mean (min to max) |")
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
