"""What happens at the end of each inner loop and of each evaluation, in this order.

Each is an `orbit.Action`: it takes the logs and returns nothing. The trainer runs them
itself, before those that a driver gives to orbit's controller, so that they belong to
the training under any driver.
"""

import json
import math
import os
import resource
from collections.abc import Collection
from typing import Any

import orbit
import tensorflow as tf
from absl import logging
from official.core import base_task, train_utils
from official.core import config_definitions as cfg

from mnv2_hpu import files
from mnv2_hpu.core import checkpointing, evaluations, finite
from mnv2_hpu.distribute import ranks, variable_sync
from mnv2_hpu.errors import UserError, did_you_mean
from mnv2_hpu.progress import Progress

Logs = dict[str, Any]


def train_actions(
  trainer: Any,
  sync: variable_sync.VariableSync,
  checkpoint: checkpointing.FaultTolerantCheckpoint,
) -> list[orbit.Action]:
  """Returns what follows an inner loop, on every rank; made where the first one begins.

  Args:
    trainer: Trainer of this rank.
    sync: Keeper of equal variables on all ranks.
    checkpoint: Checkpoint of the trainer.
  """
  shown = [ShowProgress(trainer)] if ranks.rank(trainer.strategy) == 0 else []
  return [
    RequireFiniteLoss(trainer.train_loss, trainer.global_step, trainer.config.trainer),
    lambda logs: checkpoint.repeat_failure(),
    lambda logs: sync.sync_and_check(),
    *shown,
  ]


def eval_actions(
  trainer: Any, schedule: evaluations.EvaluationSchedule, keep_best: bool
) -> list[orbit.Action]:
  """Returns what follows an evaluation, on every rank.

  Args:
    trainer: Trainer of this rank; the model holds the raw weights again.
    schedule: Record of the evaluations.
    keep_best: Whether the checkpoint with the best metric is saved.
  """
  return [
    *([SaveBestCheckpoint(trainer)] if keep_best else []),
    _log_peak_memory,
    lambda logs: schedule.mark(int(trainer.global_step.numpy())),
  ]


class RequireFiniteLoss:
  """Ends the training after a non-finite loss, or leaves it to Model Garden's recovery.

  Args:
    loss: Mean loss of the trainer, reset at the end of each loop.
    step: Variable of the step.
    config: `recovery_max_trials` allows going back to the last checkpoint so often.
  """

  def __init__(
    self, loss: finite.FiniteMean, step: tf.Variable, config: cfg.TrainerConfig
  ) -> None:
    self._loss = loss
    self._step = step
    self._max_recoveries = config.recovery_max_trials
    self._recoveries = 0

  def __call__(self, logs: Logs) -> None:
    """Looks at the loss of the loop that ended.

    Raises:
      NotFiniteError: Naming the first step with such a loss.
    """
    if not self._loss.steps_since_non_finite:
      return
    step = int(self._step.numpy()) - self._loss.steps_since_non_finite + 1
    what = f"the loss of step {step} is NaN or infinite"
    # Model Garden recovers from NaN and from what is above a bound: not from -infinity.
    is_below = float(logs[self._loss.name]) == -math.inf
    if self._recoveries < self._max_recoveries and not is_below:
      self._recoveries += 1
      logging.error(
        "%s; going back to the last checkpoint, time %d of %d "
        "(trainer.recovery_max_trials).",
        what,
        self._recoveries,
        self._max_recoveries,
      )
      return
    raise finite.NotFiniteError(
      f"{what}; checkpoints before it are kept. Lower the learning rate, lengthen the "
      "warm-up, or set trainer.recovery_max_trials to go back to the last checkpoint "
      "so many times."
    )


class ShowProgress:
  """Shows step, loss and learning rate, with the time that remains.

  Args:
    trainer: Trainer whose first loop begins now.
  """

  def __init__(self, trainer: Any) -> None:
    self._step = trainer.global_step
    self._loss = trainer.train_loss.name
    self._progress = Progress(
      trainer.config.trainer.train_steps,
      unit="step",
      description="train",
      initial=int(self._step.numpy()),
      images_per_unit=trainer.config.task.train_data.global_batch_size,
    )

  def __call__(self, logs: Logs) -> None:
    """Shows where the training is."""
    self._progress.update_to(
      int(self._step.numpy()),
      loss=float(logs[self._loss]),
      learning_rate=float(logs["learning_rate"]),
    )


class SaveBestCheckpoint:
  """Saves the EMA weights with the best metric, then `info.json` with its metrics.

  In this order: a process killed between the two leaves metrics of an older checkpoint,
  and the evaluation, repeated after the restart, is better than those. All ranks do
  what rank 0 decides: saving is collective, and the others need not have the file.

  Args:
    trainer: Trainer whose config names the folder, the metric and how to compare it.
  """

  def __init__(self, trainer: Any) -> None:
    config = trainer.config.trainer
    self._strategy = trainer.strategy
    self._step = trainer.global_step
    self._optimizer = trainer.optimizer
    self._checkpoint = trainer.checkpoint
    self._name = config.best_checkpoint_eval_metric
    self._folder = os.path.join(
      trainer.task.logging_dir, config.best_checkpoint_export_subdir
    )
    self._best = orbit.actions.NewBestMetric(
      self._metric,
      higher_is_better=config.best_checkpoint_metric_comp == "higher",
    )
    self._manager = tf.train.CheckpointManager(
      self._checkpoint,
      self._folder,
      max_to_keep=1,
      checkpoint_name=train_utils.BEST_CHECKPOINT_NAME,
    )
    self._has_best = False  # before that, orbit's value is no float32
    adds_none = base_task.Task.reduce_aggregated_logs
    if type(trainer.task).reduce_aggregated_logs is adds_none:
      metrics = (*trainer.validation_metrics, trainer.validation_loss)
      self._require_metric([metric.name for metric in metrics])
    if ranks.rank(self._strategy) == 0:
      self._read_best()

  def _require_metric(self, names: Collection[str]) -> None:
    name = self._name.split("|")[0]
    if not {name, name.removeprefix("raw_")} & set(names):
      raise UserError(
        f"trainer.best_checkpoint_eval_metric is {self._name!r}, which no evaluation "
        f"of this task has. {did_you_mean(name, names)}"
      )

  def _metric(self, logs: Logs) -> float:
    self._require_metric(logs)
    return train_utils.get_leaf_nested_dict(logs, self._name.split("|"))

  def _read_best(self) -> None:
    path = os.path.join(self._folder, "info.json")
    if not tf.io.gfile.exists(path):
      return
    try:
      with tf.io.gfile.GFile(path) as file:
        self._best.commit(json.load(file))
      self._has_best = True
    except (ValueError, KeyError, UserError) as error:
      logging.warning("%s cannot be read (%s): ignored.", path, error)

  def __call__(self, logs: Logs) -> None:
    """Saves if the metric is the best; adds the best one to the logs."""
    if ranks.broadcast_int(self._strategy, int(self._best.test(logs))):
      with checkpointing.swapped_weights(self._optimizer):
        path = self._manager.save()
      if path is not None and self._checkpoint.wait():  # None on other ranks
        self._write_metrics(logs)
        self._best.commit(logs)
        self._has_best = True
    if self._has_best:
      logs[f"best_{self._name}"] = self._best.best_value

  def _write_metrics(self, logs: Logs) -> None:
    scalars = {
      name: float(value) for name, value in logs.items() if tf.rank(value) == 0
    }
    scalars["best_ckpt_global_step"] = float(self._step.numpy())
    try:
      with files.atomic_write(os.path.join(self._folder, "info.json")) as file:
        file.write(json.dumps(scalars, indent=4) + "\n")
    except (OSError, tf.errors.OpError) as error:
      logging.error("The metrics of the best checkpoint were not written: %s", error)


def _log_peak_memory(logs: Logs) -> None:
  """Logs the most memory held: a number that grows with each evaluation is a leak."""
  del logs
  kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  logging.info("The most memory this process has held: %d MiB.", kib // 1024)
