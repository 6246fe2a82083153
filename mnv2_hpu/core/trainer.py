"""Model Garden's trainer, with checks before step 0 and progress after it."""

import dataclasses
import resource
from typing import Any, NoReturn

import gin
import orbit
import tensorflow as tf
from absl import logging
from official.core import base_task
from official.core import config_definitions as cfg
from official.modeling import optimization

from mnv2_hpu import driver_flags
from mnv2_hpu.compat import keras
from mnv2_hpu.core import (
  checkpoint_integrity,
  resilient_trainer,
  run_record,
  startup,
)
from mnv2_hpu.distribute import ranks, variable_sync
from mnv2_hpu.errors import UserError
from mnv2_hpu.optimization.exponential_moving_average import ExponentialMovingAverage
from mnv2_hpu.progress import Progress


def _check_model_dir(
  model_dir: str,
  config: cfg.ExperimentConfig,
  model: keras.Model,
  train: bool,
  allow_config_change: bool,
) -> None:
  """Looks at the run that the model folder holds, and records this one."""
  if train and model_dir:
    run_record.acquire_lock(model_dir)
    checkpoint_integrity.quarantine_corrupt(model_dir)
  if not train and driver_flags.driver_mode() == "eval":
    run_record.require_checkpoint(model_dir)
    checkpoint_integrity.require_readable(model_dir)
  if model_dir:
    run_record.check_checkpoint_fits(model_dir, model)
  if train and model_dir:
    run_record.check_and_write(model_dir, config, allow_config_change)


@gin.configurable(module="mnv2_hpu")
class Trainer(resilient_trainer.ResilientTrainer):
  """Trains any Model Garden task; bind it as `create_trainer.trainer_cls`.

  Before the first step it checks the input, the batch, and a run found in the model
  folder; records the run (`run_record.json`); and prints what will happen. While
  running it prints progress with the time that remains.

  Several ranks are one run: rank 0 looks at the model folder, writes and prints; all of
  them start from its variables, are checked to stay equal, and end together.
  """

  joins_ranks = True  # asked by `distribute.worker_dirs`

  _optimizer: Any
  _checkpoint_exporter: Any
  _eval_options: Any

  def __init__(
    self,
    config: cfg.ExperimentConfig,
    task: base_task.Task,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    train: bool = True,
    evaluate: bool = True,
    evaluate_raw_weights: bool = False,
    allow_config_change: bool = False,
    check_ranks_interval: int = 2000,
    resync_interval: int = 0,
    **kwargs: Any,
  ) -> None:
    """Checks, then builds the trainer.

    Args:
      config: the resolved experiment.
      task: its task; `task.logging_dir` is the model folder.
      model: the network, built in the scope of the strategy.
      optimizer: built likewise.
      train: whether training steps will be asked for.
      evaluate: whether evaluations will be.
      evaluate_raw_weights: evaluate also without averaging (metrics `raw_…`).
      allow_config_change: resume although the recipe differs from the earlier run's.
      check_ranks_interval: steps between two checks that all ranks hold the same
        variables (see `distribute.variable_sync`); counted at the end of an inner loop.
        They are checked at the start, after a restore and before a checkpoint anyway.
      resync_interval: steps after which ranks that differ are set to rank 0's
        variables, with a warning, instead of ending the run; 0 never.
      **kwargs: passed on to Model Garden's trainer.

    Raises:
      UserError: if the input, the batch or the model folder cannot serve this run.
    """
    strategy = tf.distribute.get_strategy()
    self._is_first = ranks.rank(strategy) == 0
    with ranks.failing_together(strategy):
      startup.check_batches(config.task, strategy.num_replicas_in_sync, train, evaluate)
      if hasattr(task, "check_inputs"):
        task.check_inputs(train, evaluate)
      if self._is_first:  # the model folder is rank 0's
        _check_model_dir(task.logging_dir, config, model, train, allow_config_change)
    startup.check_same_settings(config, strategy)
    # Only rank 0 sees the checkpoints.
    step = run_record.latest_step(task.logging_dir) if self._is_first else 0
    self._start_step = ranks.broadcast_int(strategy, step)
    self._whole_evaluation: int | None = None  # where the task does not tell
    if hasattr(task, "evaluation_steps"):
      inputs, data = orbit.utils.make_distributed_dataset, config.task.validation_data
      if train:
        kwargs["train_dataset"] = inputs(
          strategy,
          task.build_inputs,
          config.task.train_data,
          start_step=self._start_step,
        )
      if evaluate:
        kwargs["validation_dataset"] = inputs(
          strategy, task.build_inputs, data, repeat=True
        )
        self._whole_evaluation = task.evaluation_steps(
          data, ranks.size(strategy), strategy.num_replicas_in_sync
        )
    super().__init__(config, task, model, optimizer, train, evaluate, **kwargs)
    if evaluate and self._whole_evaluation is not None:
      self._eval_options = dataclasses.replace(
        self._eval_options, recreate_iterator_for_each_eval=False
      )
    self._evaluate_raw_weights = evaluate_raw_weights and isinstance(
      optimizer, optimization.ExponentialMovingAverage
    )
    self._progress: Progress | None = None
    self._base_optimizer = getattr(optimizer, "base_optimizer", optimizer)
    self._hyperparameters = {
      name: value
      for name, value in getattr(self._base_optimizer, "_hyper", {}).items()
      if isinstance(value, int | float)
    }
    # In evaluation too: a restore on rank 0 alone would create what is missing.
    variable_sync.create_slots(optimizer, model.trainable_variables)
    self._variable_sync = variable_sync.VariableSync(
      strategy,
      self.checkpoint,
      self.global_step,
      check_intervals=(
        check_ranks_interval,
        config.trainer.checkpoint_interval,
        config.trainer.train_steps,
      ),
      resync_interval=resync_interval,
    )
    if train and self._is_first:
      print(startup.summary(config, task, model, optimizer, strategy), flush=True)

  def _take_over_restored(self) -> None:
    """Takes over what rank 0 restored, and puts right what is not this run's.

    Model Garden writes `best_ckpt` and `ema_checkpoints` with weights and averages
    exchanged; Keras stores hyperparameters that are no schedule as variables.
    """
    self._variable_sync.broadcast_if_restored()
    average = self._optimizer
    if isinstance(average, ExponentialMovingAverage) and average.is_swapped:
      average.swap_weights()
    for name, value in self._hyperparameters.items():
      self._base_optimizer._set_hyper(name, value)

  def train_loop_begin(self) -> None:
    """Starts the progress where the first loop starts."""
    super().train_loop_begin()
    if self._progress is None and self._is_first:
      self._progress = Progress(
        self.config.trainer.train_steps,
        unit="step",
        description="train",
        initial=int(self.global_step.numpy()),
        images_per_unit=self.config.task.train_data.global_batch_size,
      )

  def train_loop_end(self) -> dict[str, Any]:
    """Returns the metrics of the loop that ended; checks ranks, shows the progress."""
    logs = super().train_loop_end()
    self._variable_sync.sync_and_check()
    if self._progress is not None:
      self._progress.update_to(
        int(self.global_step.numpy()),
        loss=float(logs[self.train_loss.name]),
        learning_rate=float(logs["learning_rate"]),
      )
    return logs

  def evaluate(self, num_steps: tf.Tensor) -> dict[str, Any]:
    """Evaluates the averaged weights, and before them the raw ones if asked to.

    Args:
      num_steps: Batches of the validation set, from its start; -1 all of them.
    """
    with self._ending_well():
      self._take_over_restored()
    raw = self._evaluate_raw(num_steps) if self._evaluate_raw_weights else {}
    logs = {**self._evaluate_once(num_steps), **raw}
    # In KiB; a number that grows with each evaluation is a leak.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    logging.info("The most memory this process has held: %d MiB.", peak // 1024)
    return logs

  def _evaluate_once(self, num_steps: tf.Tensor) -> dict[str, Any]:
    """Evaluates with an iterator that lasts from one evaluation to the next.

    TensorFlow may stop the whole process for a minute when it gives one up
    (docs/benchmarks.md), and a new one starts with nothing prefetched.
    """
    whole = self._whole_evaluation
    if whole is None:
      return super().evaluate(num_steps)
    steps = whole if num_steps < 0 else min(int(num_steps), whole)
    logs = super().evaluate(tf.constant(steps, tf.int32))
    if steps != whole:  # the next one is to start with the first image too
      self._eval_iter = None
    return logs

  def _evaluate_raw(self, num_steps: tf.Tensor) -> dict[str, Any]:
    """The metrics of the weights as they are; neither swaps nor exports."""
    optimizer, exporter = self._optimizer, self._checkpoint_exporter
    self._optimizer = self._checkpoint_exporter = None
    try:
      logs = self._evaluate_once(num_steps)
    finally:
      self._optimizer, self._checkpoint_exporter = optimizer, exporter
    return {f"raw_{name}": value for name, value in logs.items()}

  def _save_and_end(self) -> NoReturn:
    """Brings the ranks together first, for SIGTERM may come within an inner loop."""
    self._variable_sync.sync_and_check()
    super()._save_and_end()

  def initialize(self) -> None:
    """Called where the model folder holds no checkpoint: reads the initial one.

    So it always is on ranks other than 0, which take over rank 0's variables later, but
    its step now: from it orbit counts when to evaluate and to end.
    """
    self._variable_sync.invalidate()
    if not self._is_first:
      with self.strategy.scope():
        self.global_step.assign(self._start_step)
      return
    if driver_flags.driver_mode() == "eval":
      raise UserError(
        f"--mode=eval found no checkpoint in {self.task.logging_dir!r}: its weights "
        "would be random. Give the folder of a training run as --model_dir."
      )
    # TensorFlow's preemption handler restores outside the scope.
    with self.strategy.scope():
      super().initialize()
      if isinstance(self._optimizer, ExponentialMovingAverage):
        self._optimizer.reset_shadow_variables()
