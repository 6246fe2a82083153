"""Where quantization-aware training differs from post-training quantization.

  .venv/bin/python benchmarks/quantization.py --float_run=build/quickstart/model

The float run is that of `make quickstart`. Its channels between blocks are scaled by
factors drawn for each seed, up to 10**s and down to 10**-s, and the kernels that read
them by the inverse: the float network computes the same, but one scale of int8 has to
serve channels of very different ranges, as in networks whose post-training int8 is
known to fail (arXiv 1906.04721, section 3). At s = 0 the network is the trained one.
Prints a row for each s and seed, then the difference's mean and standard deviation.
"""

import shutil
import statistics
from pathlib import Path

from mnv2_hpu import tf_environment

tf_environment.configure()

import numpy as np
import tensorflow as tf
from absl import app, flags
from official.core import task_factory

import mnv2_hpu
from mnv2_hpu.checkpoints import restore
from mnv2_hpu.configs import quantization
from mnv2_hpu.core import run_record
from mnv2_hpu.evaluation import checked_export, int8_comparison
from mnv2_hpu.modeling import mobilenet_v2
from mnv2_hpu.serving import export, tflite

_FLOAT_RUN = flags.DEFINE_string("float_run", "build/quickstart/model", "Its folder.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "build/quantization", "Checkpoints.")
_SPREADS = flags.DEFINE_list("spreads", ["0", "1", "1.5"], "Each s.")
_SEEDS = flags.DEFINE_list("seeds", ["1", "2", "3"], "Of factors and of the training.")
_EPOCHS = flags.DEFINE_float("epochs", 8, "Length of the quantization-aware training.")
_IMAGES = 100  # to calibrate with


def _scale_channels(backbone, spread, seed):
  """Scales what blocks pass on, and the kernels that read it by the inverse."""
  random = np.random.default_rng(seed)
  names = {layer.name for layer in backbone.layers}
  blocks = [n.removesuffix("/project") for n in names if n.endswith("/project")]
  blocks.sort(
    key=lambda name: int(name.rpartition("_")[2]) if name[-1].isdigit() else 0
  )
  factors = None
  for block, following in zip(blocks, [*blocks[1:], None], strict=True):
    norm = backbone.get_layer(f"{block}/project/{mobilenet_v2.BATCH_NORM}")
    if f"{block}/add" not in names:  # what is added has the same factors
      factors = 10 ** random.uniform(-spread, spread, norm.gamma.shape)
    for variable in (norm.gamma, norm.beta):
      variable.assign(variable.numpy() * factors)
    reader = backbone.get_layer(f"{following}/expand" if following else "Conv_1")
    reader.kernel.assign(reader.kernel.numpy() / factors[:, np.newaxis])


def _start(params, folder, spread, seed):
  """Writes the float network, its channels scaled; returns the checkpoint."""
  model = task_factory.get_task(params.task).build_model()
  run = _FLOAT_RUN.value
  restore.restore_weights(model, run, restore.preferred_weights(run))
  _scale_channels(model.backbone, spread, seed)
  step = tf.Variable(0, dtype=tf.int64)
  checkpoint = tf.train.Checkpoint(
    model=model, backbone=model.backbone, global_step=step
  )
  shutil.copy(Path(run) / "params.yaml", folder)  # names the network
  return checkpoint.write(str(folder / "start"))


def _experiment(float_params, start, seed):
  """Returns the recipe of gin/qat/classification.gin for this start."""
  recipe = quantization.ClassificationQATRecipe(
    data_dir=str(Path(float_params.task.train_data.input_path).parent),
    init_checkpoint=start,
    train_epochs=_EPOCHS.value,
    freeze_batch_norm_epochs=_EPOCHS.value / 2,
    seed=seed,
  )
  return quantization.experiment(recipe)


def _train(params, folder):
  """Trains from the start; returns the checkpoint."""
  task = task_factory.get_task(params.task)
  model = task.build_model()
  task.initialize(model)
  optimizer = task.create_optimizer(params.trainer.optimizer_config, params.runtime)
  optimizer.shadow_copy(model)
  batches = iter(task.build_inputs(params.task.train_data))

  @tf.function
  def steps(count):
    for _ in tf.range(count):
      task.train_step(next(batches), model, optimizer)

  steps(tf.constant(params.trainer.train_steps))
  checkpoint = tf.train.Checkpoint(
    model=model, optimizer=optimizer, global_step=optimizer.iterations
  )
  return checkpoint.write(str(folder / "qat"))


def _measure(spread, seed):
  """Returns the programs' accuracies, by name."""
  folder = Path(_OUTPUT_DIR.value) / f"{spread}-{seed}"
  folder.mkdir(parents=True, exist_ok=True)
  float_params = run_record.load(_FLOAT_RUN.value)
  params = _experiment(float_params, _start(float_params, folder, spread, seed), seed)
  result = export.export(params, _train(params, folder), str(folder / "export"))
  rows = int8_comparison.compare(
    params,
    result,
    params.task.validation_data.input_path,
    tflite.Quantization(checked_export.calibration_images_of(params, _IMAGES)),
  )
  return {name: row.metrics["accuracy"] for name, row in rows.items()}


def main(argv):
  """Measures all; prints a row as soon as it is known."""
  del argv
  mnv2_hpu.register()
  for spread in map(float, _SPREADS.value):
    differences = []
    for seed in map(int, _SEEDS.value):
      found = _measure(spread, seed)
      values = " | ".join(f"{value:.2%}" for value in found.values())
      print(f"| {spread:g} | {seed} | {values} |", flush=True)
      differences.append(
        found[int8_comparison.QAT_INT8] - found[int8_comparison.POST_TRAINING_INT8]
      )
    deviation = statistics.stdev(differences) if len(differences) > 1 else 0.0
    mean = statistics.mean(differences)
    print(f"s = {spread:g}: QAT better by {mean:+.2%}, deviation {deviation:.2%}")


if __name__ == "__main__":
  app.run(main)
