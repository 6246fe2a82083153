"""The trainer of every task: one run on all ranks, resumed exactly, ended cleanly."""

import atexit
import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from typing import Any, NoReturn

import gin
import orbit
import tensorflow as tf
from absl import logging
from official.core import base_task, base_trainer
from official.core import config_definitions as cfg
from official.modeling import optimization

from mnv2_hpu import compat, driver_flags
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import moving_averages
from mnv2_hpu.core import (
  actions,
  checkpoint_integrity,
  checkpointing,
  chunks,
  evaluations,
  finite,
  inputs,
  profiling,
  run_record,
  startup,
  termination,
)
from mnv2_hpu.distribute import ranks, variable_sync, watchdog
from mnv2_hpu.errors import UserError
from mnv2_hpu.optimization.exponential_moving_average import ExponentialMovingAverage


@gin.configurable(module="mnv2_hpu")
class Trainer(base_trainer.Trainer):
  """Trains any Model Garden task; bind it as `create_trainer.trainer_cls`.

  Before the first step it checks the settings, the input, and a run found in the model
  folder; records the run (`run_record.json`); and prints what will happen.

  * Several ranks are one run: rank 0 reads and writes the model folder; all of them
    start from its variables, are checked to stay equal, and end together.
  * A killed run resumes at its last checkpoint that can be read, bit by bit; a pending
    evaluation is run first. The input continues there if the task's `build_inputs`
    takes `start_step`.
  * A checkpoint that cannot be written is logged at each inner loop; training goes on.
  * A loss of NaN or infinity ends the training, naming the step; or, where
    `trainer.recovery_max_trials` allows, Model Garden goes back to the last checkpoint.
  * After SIGTERM or SIGUSR1 all ranks save a checkpoint and end, with exit code 143.
  * Where a rank is missing or nothing moves, all ranks end and name it (exit code 75).
  """

  joins_ranks = True  # read by `distribute.worker_dirs`

  _eval_options: orbit.StandardEvaluatorOptions

  def __init__(
    self,
    config: cfg.ExperimentConfig,
    task: base_task.Task,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    train: bool = True,
    evaluate: bool = True,
    checkpoint_exporter: Any = None,
    evaluate_raw_weights: bool = False,
    allow_config_change: bool = False,
    check_ranks_interval: int = 2000,
    resync_interval: int = 0,
    **kwargs: Any,
  ) -> None:
    """Checks, then builds the trainer.

    Args:
      config: Resolved experiment.
      task: Its task; `task.logging_dir` is the model folder.
      model: Network, built in the scope of the strategy.
      optimizer: Optimizer, built likewise.
      train: Whether `train` will be called.
      evaluate: Whether `evaluate` will be.
      checkpoint_exporter: Model Garden's exporter, or None where the best checkpoint is
        not kept; `config.trainer` says where it is kept, and by which metric.
      evaluate_raw_weights: Evaluate also the weights without EMA (metrics `raw_…`).
      allow_config_change: Resume although the recipe differs from the earlier run's.
      check_ranks_interval: Steps between two checks that all ranks hold the same
        variables (see `distribute.variable_sync`); counted at the end of an inner loop.
        They are checked at the start, after a restore and before a checkpoint anyway.
      resync_interval: Steps after which ranks that differ are set to rank 0's
        variables, with a warning, instead of ending the run; 0 never.
      **kwargs: Passed on to Model Garden's trainer.

    Raises:
      UserError: If a setting, the input or the model folder cannot serve this run.
    """
    strategy = tf.distribute.get_strategy()
    self._is_chief = ranks.rank(strategy) == 0
    with ranks.failing_together(strategy):
      startup.check_settings(config, task, strategy, train, evaluate)
      self._profile_steps = profiling.requested(config.trainer.train_steps)
      if self._is_chief:
        startup.check_model_dir(
          task.logging_dir, config, model, train, allow_config_change
        )
    startup.check_same_settings(config, strategy)
    # Only rank 0 sees the checkpoints.
    step = checkpoint_integrity.latest_step(task.logging_dir) if self._is_chief else 0
    self._start_step = ranks.broadcast_int(strategy, step)
    datasets, self._num_eval_steps = inputs.build(
      strategy,
      task,
      train and "train_dataset" not in kwargs,
      evaluate and "validation_dataset" not in kwargs,
      self._start_step,
    )
    super().__init__(
      config, task, model, optimizer, train, evaluate, **datasets, **kwargs
    )
    if self._num_eval_steps is not None:
      self._eval_options = dataclasses.replace(
        self._eval_options, recreate_iterator_for_each_eval=False
      )
    self._checkpoint = checkpointing.FaultTolerantCheckpoint(
      self._on_sync,
      global_step=self.global_step,
      model=model,
      optimizer=optimizer,
      **getattr(model, "checkpoint_items", {}),
    )
    self._train_loss = finite.FiniteMean("training_loss", dtype=tf.float32)
    self._evaluate_raw_weights = evaluate_raw_weights and isinstance(
      optimizer, optimization.ExponentialMovingAverage
    )
    self._base_optimizer: Any = getattr(optimizer, "base_optimizer", optimizer)
    self._hyperparameters = {
      name: value
      for name, value in getattr(self._base_optimizer, "_hyper", {}).items()
      if isinstance(value, int | float)
    }
    # In evaluation too: a restore on rank 0 alone would create what is missing.
    variable_sync.create_slots(optimizer, model.trainable_variables)
    self._sync = variable_sync.VariableSync(
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
    self._schedule = evaluations.EvaluationSchedule(
      task.logging_dir, config.trainer, self._is_chief
    )
    self._train_actions: list[orbit.Action] = []  # made where the first loop begins
    self._eval_actions = actions.eval_actions(
      self, self._schedule, keep_best=evaluate and checkpoint_exporter is not None
    )
    self._init_faults(train)
    if train and self._is_chief:
      print(startup.summary(config, task, model, optimizer, strategy), flush=True)
      for warning in (moving_averages.warning(config), startup.warmup_warning(config)):
        if warning:
          logging.warning(warning)
      if task.logging_dir:
        startup.write_hyperparameters(config, model, task.logging_dir, self._start_step)

  def _init_faults(self, train: bool) -> None:
    """Prepares for signals, lost ranks and stalls; in training, starts to watch."""
    settings = termination.FaultSettings()
    self._first_step: int | None = None  # where this process starts
    self._stop_request = termination.StopRequest(settings.stop_seconds)
    self._watchdog = watchdog.Watchdog(self.strategy, settings)
    self._train_chunks, self._eval_chunks = (
      chunks.Chunks(
        self.strategy,
        self._stop_request,
        settings.seconds_between_checks,
        on_chunk_end=lambda: self._watchdog.record_progress(self._step()),
      )
      for _ in range(2)
    )
    self._eval_position = 0  # steps that the iterator of the evaluation has made
    if train:
      self._stop_request.listen()
      self._watchdog.start()
      if driver_flags.driver_mode() is not None:
        termination.skip_teardown_at_exit(keep=self)

  def _step(self) -> int:
    return int(self.global_step.numpy())

  def initialize(self) -> None:
    """Called where the model folder holds no checkpoint: reads the initial one.

    So it always is on non-chief ranks, which receive rank 0's variables later, but
    its step now: from it orbit counts when to evaluate and to end.
    """
    self._sync.invalidate()
    # TensorFlow's preemption handler restores outside the scope.
    with self.strategy.scope():
      if not self._is_chief:
        self.global_step.assign(self._start_step)
        return
      if driver_flags.driver_mode() == "eval":
        raise UserError(
          f"--mode=eval found no checkpoint in {self.task.logging_dir!r}: its weights "
          "would be random. Give the folder of a training run as --model_dir."
        )
      super().initialize()
      if isinstance(self.optimizer, ExponentialMovingAverage):
        self.optimizer.reset_shadow_variables()

  # ---- Training ----

  def create_train_loop_fn(self) -> Any:
    """Returns orbit's inner loop, in chunks after which a SIGTERM is noticed."""
    loop = super().create_train_loop_fn()
    if self._is_chief:
      loop = profiling.trace_steps(
        loop, self._profile_steps, self._step, self.task.logging_dir
      )
    return chunks.run_in_chunks(loop, self._train_chunks)

  def train(self, num_steps: tf.Tensor) -> dict[str, Any]:
    """Trains so many steps, or fewer where the uninterrupted run ends a loop."""
    with self._handle_faults():
      if self._first_step is None:
        self._run_pending_evaluation()
        self._first_step = self._step()
        self._watchdog.record_progress(self._first_step)
        self._train_actions = actions.train_actions(self, self._sync, self._checkpoint)
      logs = super().train(tf.constant(self._num_loop_steps(int(num_steps))))
    if self._is_missed_by_orbit(self._step()):
      evaluations.evaluate_as_controller(self, self.task.logging_dir)
    return logs

  def train_loop_begin(self) -> None:
    """Settles what came before the loop: a restore, an evaluation."""
    super().train_loop_begin()
    self._sync_restored_state()
    if self._schedule.is_to_commit:
      self._checkpoint.wait()
      self._schedule.commit()
    self._stop_request.defer()

  def train_loop_end(self) -> dict[str, Any]:
    """Returns the metrics of the loop that ended, after the actions on them."""
    logs = super().train_loop_end()
    # A constant one is a variable, of which several replicas have a copy each.
    logs["learning_rate"] = tf.convert_to_tensor(logs["learning_rate"])
    for action in self._train_actions:
      action(logs)
    return compat.as_python_numbers(logs)

  def _num_loop_steps(self, requested: int) -> int:
    """Returns the steps of the next loop, the same on all ranks."""
    loop = self.config.trainer.steps_per_loop
    own = min(requested, loop - self._step() % loop)
    # Rank 0's: after a recovery others know its step only once it was broadcast.
    return ranks.broadcast_int(self.strategy, own)

  def _sync_restored_state(self) -> None:
    """Gives all ranks what rank 0 restored, and sets right what is not this run's.

    Model Garden writes `best_ckpt` and `ema_checkpoints` with weights and EMA weights
    swapped; Keras stores hyperparameters that are no schedule as variables.
    """
    self._sync.broadcast_if_restored()
    self._unswap()
    for name, value in self._hyperparameters.items():
      self._base_optimizer._set_hyper(name, value)

  def _unswap(self) -> None:
    optimizer = self.optimizer
    if isinstance(optimizer, ExponentialMovingAverage) and optimizer.is_swapped:
      optimizer.swap_weights()

  # ---- Evaluation ----

  def evaluate(self, num_steps: tf.Tensor) -> dict[str, Any]:
    """Evaluates the EMA weights, and before them the raw ones if configured.

    While it trains too, only after the steps at which the uninterrupted run does.

    Args:
      num_steps: Batches of the validation set, from its start; -1 all of them.
    """
    if self._schedule.is_active and not self._schedule.is_due(self._step()):
      return {}
    total = self._num_eval_steps
    if total is not None:
      steps = total if num_steps < 0 else min(int(num_steps), total)
      num_steps = tf.constant(steps, tf.int32)
    with self._handle_faults():
      self._sync_restored_state()
      raw = {}
      if self._evaluate_raw_weights:
        with checkpointing.swapped_weights(self.optimizer):  # `eval_begin` swaps back
          logs = super().evaluate(num_steps)
        raw = {f"raw_{name}": value for name, value in logs.items()}
      logs = super().evaluate(num_steps) | raw
      for action in self._eval_actions:
        action(logs)
    return compat.as_python_numbers(logs)

  def eval_begin(self) -> Any:
    """Starts an evaluation with the first example."""
    if self._num_eval_steps and self._eval_position % self._num_eval_steps:
      self._eval_iter = None
    self._eval_position = 0
    self._eval_chunks.begin()
    return super().eval_begin()

  def eval_reduce(self, state: Any = None, step_outputs: Any = None) -> Any:
    """Called after each step of an evaluation: notices a SIGTERM."""
    self._eval_position += 1
    self._eval_chunks.add_step()
    return super().eval_reduce(state, step_outputs)

  def _run_pending_evaluation(self) -> None:
    """Runs the evaluation that was due at the step at which this run resumes."""
    step = self._step()
    self._schedule.resume(step)
    pending = self._schedule.is_pending(step)  # rank 0 knows
    if ranks.broadcast_int(self.strategy, int(pending)):
      evaluations.evaluate_as_controller(self, self.task.logging_dir)

  def _is_missed_by_orbit(self, step: int) -> bool:
    """Returns whether orbit, counting from where it resumed, misses an evaluation."""
    config = self.config.trainer
    if not self._schedule.is_active or step >= config.train_steps:
      return False
    off_grid = (step - (self._first_step or 0)) % config.validation_interval
    return bool(off_grid) and self._schedule.is_due(step)

  # ---- Ends ----

  @contextlib.contextmanager
  def _handle_faults(self) -> Iterator[None]:
    """Reports errors to the other ranks; saves and exits after a stop request."""
    try:
      with self._watchdog.broadcast_errors():
        try:
          yield
        except tf.errors.OpError:
          self._watchdog.wait_for_diagnosis()
          raise
    except termination.Preempted:
      self._unswap()
      self._checkpoint_and_exit()

  def _checkpoint_and_exit(self) -> NoReturn:
    """Saves a checkpoint of this step on all ranks, and ends the process."""
    self._sync.sync_and_check()
    self._checkpoint.wait()  # the list that the manager reads names the last one then
    manager = tf.train.CheckpointManager(
      self.checkpoint,
      directory=self.task.logging_dir if self._is_chief else tempfile.mkdtemp(),
      max_to_keep=self.config.trainer.max_to_keep,
    )
    manager.save(checkpoint_number=self._step())
    is_saved = self._checkpoint.wait()
    # Launchers end all ranks once one has ended: none may before rank 0 has written.
    with contextlib.suppress(tf.errors.UnavailableError):  # one that was here has ended
      ranks.wait_for_all(self.strategy)
    self._watchdog.stop()
    path = manager.latest_checkpoint
    if not is_saved:
      logging.error("The training ends; a restart goes on from %s.", path or "step 0")
      termination.end_process(1)
    logging.info("Stop requested: ends at step %d; checkpoint: %s", self._step(), path)
    termination.end_process(termination.EXIT_PREEMPTED)

  def _on_sync(self) -> None:
    """Called before an evaluation and at the end: finishes the training there."""
    if self._step() < self.config.trainer.train_steps:
      return
    is_resumed_at_end = self._first_step is None  # orbit does nothing at all then
    if is_resumed_at_end:
      self._first_step = self._step()
      if self._is_chief:
        print(f"This run had reached its last step, {self._step():,}.", flush=True)
      self._run_pending_evaluation()
    is_evaluated = self._schedule.last_step == self._step()
    if is_resumed_at_end or is_evaluated or not self._schedule.is_active:
      self._finish()

  def _finish(self) -> None:
    """Leaves the ranks and marks the run as finished, its last checkpoint saved."""
    self._checkpoint.wait()
    self._schedule.commit()
    self._watchdog.stop()
    self._checkpoint.require_saved()
    if self._is_chief:
      run_record.write_finished(self.task.logging_dir, self._step())
    termination.mark_finished()
    if driver_flags.driver_mode() is not None and ranks.size(self.strategy) > 1:
      # TensorFlow on the other ranks would report the one that is gone first.
      atexit.register(ranks.wait_for_all, self.strategy)
