"""What is said before the first step: devices, precision, batch, schedule, size."""

import math
import os
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import base_task, input_reader
from official.core import config_definitions as cfg

from mnv2_hpu import driver_flags
from mnv2_hpu.checkpoints import paths as checkpoint_paths
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import moving_averages
from mnv2_hpu.configs.image_classification import DataConfig
from mnv2_hpu.core import (
  checkpoint_integrity,
  config_check,
  run_record,
)
from mnv2_hpu.data_service import client
from mnv2_hpu.dataloaders import record_files
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo
from mnv2_hpu.distribute import ranks
from mnv2_hpu.errors import UserError, counted
from mnv2_hpu.modeling import complexity
from mnv2_hpu.native import library
from mnv2_hpu.optimization import learning_rate

_CURVES = "train"  # folder of orbit's curves
_SAME_ON_ALL_RANKS = (*run_record.RECIPE, "trainer.")


def check_settings(
  config: cfg.ExperimentConfig,
  task: Any,
  strategy: tf.distribute.Strategy,
  train: bool,
  evaluate: bool,
) -> None:
  """Checks numbers and input, and that the replicas divide every global batch.

  Raises:
    UserError: Naming the field or the file, what it holds and what is allowed.
  """
  config_check.check(config, train)
  replicas = strategy.num_replicas_in_sync
  used = (("train_data", train), ("validation_data", evaluate))
  for field in [name for name, is_used in used if is_used]:
    batch = getattr(config.task, field).global_batch_size
    if batch < 1 or batch % replicas:
      below = max(1, batch // replicas) * replicas
      raise UserError(
        f"task.{field}.global_batch_size is {batch}, which {replicas} replicas do not "
        f"divide. Use a multiple of {replicas}, for instance {below} or "
        f"{below + replicas}."
      )
  if train and getattr(config.task.train_data, "service_address", None):
    client.check(config.task.train_data)
  if hasattr(task, "check_inputs"):
    task.check_inputs(train, evaluate)


def check_model_dir(
  model_dir: str,
  config: cfg.ExperimentConfig,
  model: keras.Model,
  train: bool,
  allow_config_change: bool,
) -> None:
  """Checks the run that the model folder holds, and in training records this one.

  Args:
    model_dir: Folder of the run; empty where none is used.
    config: Resolved experiment.
    model: Its network.
    train: Whether this process trains.
    allow_config_change: Resume although the recipe differs from the earlier run's.

  Raises:
    UserError: If the folder cannot serve.
  """
  if not (train and model_dir):
    _check_model_dir(model_dir, config, model, train, allow_config_change)
    return
  try:
    _check_model_dir(model_dir, config, model, train, allow_config_change)
  except UserError:
    run_record.restore_params_file(model_dir)
    raise


def _check_model_dir(
  model_dir: str,
  config: cfg.ExperimentConfig,
  model: keras.Model,
  train: bool,
  allow_config_change: bool,
) -> None:
  if train and model_dir:
    checkpoint_paths.check_name(model_dir)
    run_record.acquire_lock(model_dir)
    checkpoint_integrity.quarantine_corrupt(model_dir)
  if not train and driver_flags.driver_mode() == "eval":
    checkpoint_integrity.require_checkpoint(model_dir)
  if model_dir:
    checkpoint_integrity.check_fits(model_dir, model)
  if train and model_dir:
    run_record.check_and_write(model_dir, config, allow_config_change)


def check_same_settings(
  config: cfg.ExperimentConfig, strategy: tf.distribute.Strategy
) -> None:
  """Checks that all ranks were started with the same recipe, seeds and step counts.

  What may differ from host to host (paths, devices) is left out.

  Raises:
    UserError: On all ranks, naming the first setting that differs and the ranks.
  """
  settings = [
    (path, repr(value))
    for path, value in run_record.flatten(config.as_dict())
    if path.startswith(_SAME_ON_ALL_RANKS) or path.endswith((".seed", "batch_size"))
  ]
  values = np.array([zlib.crc32(f"{s}".encode()) for s in settings], np.uint32)
  whole = ranks.gather(
    strategy, np.array([len(values), zlib.crc32(values.tobytes())], np.int64)
  )
  if (whole == whole[0]).all():
    return
  what = "their number of settings"
  if (whole[:, 0] == whole[0, 0]).all():
    differs = (each := ranks.gather(strategy, values)) != each[0]
    path, value = settings[int(np.flatnonzero(differs.any(axis=0))[0])]
    what = f"{path} (here {value})"
  others = np.flatnonzero((whole != whole[0]).any(axis=1)).tolist()
  raise UserError(
    f"the ranks were started with different settings: rank {others} and rank 0 differ "
    f"in {what}. Start all ranks with the same gin files, --params_override and code."
  )


def _table(rows: Sequence[tuple[str, str]]) -> str:
  width = max(len(name) for name, _ in rows)
  return "\n".join(f"  {name:<{width}}  {text}" for name, text in rows)


def _devices(strategy: tf.distribute.Strategy) -> str:
  names = strategy.extended.worker_devices
  short = ", ".join(name.split("device:")[-1] for name in names)
  count = ranks.size(strategy)
  return f"{short}; {type(strategy).__name__}, {counted(count, 'process')}"


def _durations(config: cfg.ExperimentConfig) -> list[tuple[str, str]]:
  trainer, data = config.trainer, config.task.train_data
  examples = getattr(data, "num_examples", 0)
  rows = [("train steps", f"{trainer.train_steps:,}")]
  if examples:
    per_epoch = examples / data.global_batch_size
    epochs = trainer.train_steps / per_epoch
    rows[0] = (
      "train steps",
      f"{trainer.train_steps:,} = {epochs:,.1f} epochs of {examples:,} examples",
    )
  every = f"every {trainer.validation_interval:,} steps"
  rows.append(("evaluation", every))
  rows.append(("checkpoint", f"every {trainer.checkpoint_interval:,} steps"))
  return rows


def _learning_rates(config: cfg.ExperimentConfig, optimizer: Any) -> str:
  """Returns the rate at steps spread over the training."""
  data = config.task.train_data
  examples = getattr(data, "num_examples", 0)
  rows = learning_rate.learning_rate_table(
    optimizer.learning_rate,
    config.trainer.train_steps,
    steps_per_epoch=(examples or data.global_batch_size) / data.global_batch_size,
  )
  epochs = " (epoch {:.1f})" if examples else ""
  return ", ".join(
    f"{row.rate:.4g} at step {row.step:,}{epochs.format(row.epoch)}" for row in rows
  )


def warmup_warning(config: cfg.ExperimentConfig) -> str | None:
  """Returns a text where the warm-up is as long as the training, else None."""
  steps, train_steps = _warmup_steps(config), config.trainer.train_steps
  if steps < train_steps:
    return None
  return (
    f"the warm-up of {steps:,.0f} steps is as long as the training of {train_steps:,}: "
    "its learning rate is never reached. Bind a shorter warmup_epochs, or train longer."
  )


def _warmup_steps(config: cfg.ExperimentConfig) -> float:
  optimizer = config.trainer.optimizer_config
  warmup = optimizer.warmup.get() or optimizer.learning_rate.get()
  return getattr(warmup, "warmup_steps", 0)


def _learning_rate_rule(config: cfg.ExperimentConfig) -> str:
  """Names the schedule, its warm-up, and what several replicas did to it."""
  schedule = config.trainer.optimizer_config.learning_rate
  text = f"{schedule.type}, warm-up of {_warmup_steps(config):,.0f} steps"
  scale = getattr(schedule.get(), "scale", 1)
  return text if scale == 1 else f"{text}, {scale:g} times the rate of one replica"


def _files(data: cfg.DataConfig) -> str:
  if not data.input_path:
    return f"TensorFlow Datasets {data.tfds_name} {data.tfds_split}"
  is_ours = isinstance(data, DataConfig)
  match_files = record_files.match_files if is_ours else input_reader.match_files
  files = match_files(data.input_path)
  size = sum(tf.io.gfile.stat(file).length for file in files)
  info = DatasetInfo.find(os.path.dirname(data.input_path)) if is_ours else None
  scaled = f", images scaled to {info.max_side} px" if info and info.max_side else ""
  address = getattr(data, "service_address", "") if data.is_training else ""
  service = f", read by the data service at {address}" if address else ""
  return (
    f"{counted(len(files), 'file')}, {size / 1e6:,.1f} MB{scaled}: {data.input_path}"
    f"{service}"
  )


def _network_size(
  config: cfg.ExperimentConfig, model: keras.Model
) -> tuple[int, int | None]:
  """Returns trainable parameters and, where the input's size is fixed, MACs."""
  parameters = sum(v.shape.num_elements() for v in model.trainable_variables)
  input_size = getattr(config.task.model, "input_size", None)
  if not (model.inputs and input_size and all(input_size)):
    return parameters, None
  return parameters, complexity.multiply_adds(model)


def write_hyperparameters(
  config: cfg.ExperimentConfig, model: keras.Model, model_dir: str, step: int
) -> None:
  """Writes the recipe and the network's size for TensorBoard, beside the curves.

  Args:
    config: Resolved experiment.
    model: Network, built.
    model_dir: Folder of the run.
    step: Step at which this process starts.
  """
  # Here, since importing it changes absl's flags: `register` would.
  from tensorboard.plugins.hparams import api as hparams

  parameters, macs = _network_size(config, model)
  values = {
    path: value if isinstance(value, bool | int | float | str) else repr(value)
    for path, value in run_record.recipe(config.as_dict()).items()
    if value is not None
  }
  writer = tf.summary.create_file_writer(os.path.join(model_dir, _CURVES))
  with writer.as_default():
    hparams.hparams(values)
    tf.summary.scalar("network/trainable_parameters", parameters, step)
    if macs is not None:
      tf.summary.scalar("network/multiply_adds", macs, step)
  writer.close()


def _image_distortion(task: Any) -> str:
  """Returns where training images are distorted, and by what."""
  train, text = task.train_data, library.describe()
  if not getattr(train.preprocessing_options, "preprocess_on_device", False):
    return text
  megabytes = math.prod(task.model.input_size) * train.global_batch_size / 1e6
  return (
    f"{text}; colors and range on the device: {megabytes:,.1f} MB of images a step as "
    f"uint8, for {4 * megabytes:,.1f} as float32"
  )


def summary(
  config: cfg.ExperimentConfig,
  task: base_task.Task,
  model: keras.Model,
  optimizer: keras.optimizers.Optimizer,
  strategy: tf.distribute.Strategy,
) -> str:
  """Returns the table that training prints before its first step."""
  train = config.task.train_data
  parameters, macs = _network_size(config, model)
  batch = (
    f"{train.global_batch_size} on {counted(strategy.num_replicas_in_sync, 'replica')}"
  )
  size = f"{parameters:,} trainable parameters"
  if macs is not None:
    height, width = config.task.model.input_size[:2]
    size += f", {macs / 1e6:,.1f} M multiply-adds at {height} x {width}"
  rows = [
    ("task", type(task).__name__),
    ("model folder", task.logging_dir),
    ("devices", _devices(strategy)),
    ("compute dtype", keras.mixed_precision.global_policy().compute_dtype),
    ("network", size),
    ("global batch", batch),
    *_durations(config),
    *(("chosen", reason) for reason in getattr(config.task, "chosen", ())),
    *moving_averages.rows(config),
    ("learning-rate rule", _learning_rate_rule(config)),
    ("learning rate", _learning_rates(config, optimizer)),
    ("training input", _files(train)),
    ("image distortion", _image_distortion(config.task)),
    ("validation input", _files(config.task.validation_data)),
  ]
  return _table(rows)
