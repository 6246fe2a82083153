"""Model Garden's trainer, kept going or ended well where something goes wrong."""

import contextlib
import math
import tempfile
from collections.abc import Iterator
from typing import Any, NoReturn

import tensorflow as tf
from absl import logging
from official.core import base_trainer
from official.core import config_definitions as cfg

from mnv2_hpu.compat import keras
from mnv2_hpu.core import (
  checkpointing,
  finite,
  missed_evaluation,
  termination,
)
from mnv2_hpu.distribute import ranks, watchdog
from mnv2_hpu.optimization.exponential_moving_average import ExponentialMovingAverage


class ResilientTrainer(base_trainer.Trainer):
  """What to do about a full disk, a NaN, a SIGTERM, and a kill while evaluating.

  * A checkpoint that cannot be written is logged at each inner loop; training goes on.
  * A loss of NaN or infinity ends the training, naming the step; or, where
    `trainer.recovery_max_trials` allows, Model Garden goes back to the last checkpoint.
  * After SIGTERM or SIGUSR1 all ranks save a checkpoint and end, with exit code 143.
  * An evaluation that a killed run owes is made up for after the restart.
  * Where a rank is missing or nothing moves, all ranks end and say so (exit code 75).
  """

  _strategy: tf.distribute.Strategy
  _train_loss: finite.FiniteMean
  _checkpoint: checkpointing.SafeCheckpoint
  _checkpoint_exporter: Any

  def __init__(
    self,
    config: cfg.ExperimentConfig,
    task: Any,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    train: bool = True,
    evaluate: bool = True,
    **kwargs: Any,
  ) -> None:
    """Builds Model Garden's trainer and exchanges its checkpoint, loss and exporter."""
    super().__init__(config, task, model, optimizer, train, evaluate, **kwargs)
    items = getattr(model, "checkpoint_items", {})
    self._checkpoint = checkpointing.SafeCheckpoint(
      self._at_sync,
      global_step=self.global_step,
      model=model,
      optimizer=optimizer,
      **items,
    )
    self._train_loss = finite.FiniteMean("training_loss", dtype=tf.float32)
    if self._checkpoint_exporter is not None:
      self._checkpoint_exporter = checkpointing.BestCheckpointExporter.like(
        self._checkpoint_exporter
      )
    self._plan = config.trainer
    self._settings = termination.FaultSettings()
    self._termination = termination.Termination()
    self._training_parts = self._parts()
    self._evaluation_parts = self._parts()
    self._evaluation_steps = 0
    self._recoveries = 0
    self._first_step: int | None = None  # of this process; None before it trains
    self._loop_start = 0
    self._evaluated_step: int | None = None
    self._watchdog = watchdog.Watchdog(self._strategy, self._settings)
    if train:
      self._termination.listen()
      self._watchdog.start()

  def _parts(self) -> termination.Parts:
    return termination.Parts(
      self._strategy,
      self._termination,
      self._settings.seconds_between_checks,
      after_part=lambda: self._watchdog.record_progress(self._step()),
    )

  def _step(self) -> int:
    return int(self.global_step.numpy())

  # ---- Training ----

  def create_train_loop_fn(self) -> Any:
    """Returns orbit's inner loop, in parts after which a SIGTERM is noticed."""
    return termination.in_parts(super().create_train_loop_fn(), self._training_parts)

  def _take_over_restored(self) -> None:
    """Called before the steps of a loop: variables may have been restored since."""

  def train_loop_begin(self) -> None:
    """Notes where the loop starts, on each rank where rank 0 does."""
    super().train_loop_begin()
    self._take_over_restored()
    self._loop_start = self._step()
    self._termination.begin()

  def train(self, num_steps: tf.Tensor) -> dict[str, Any]:
    """Trains so many steps, or fewer if asked to end."""
    try:
      with self._ending_well():
        if self._first_step is None:
          self._evaluate_if_owed()
          self._first_step = self._step()
        logs = super().train(tf.constant(self._steps_of_loop(int(num_steps))))
    except termination.Terminated:
      self._save_and_end()
    step = self._step()
    if self._is_off_orbits_grid(step) and missed_evaluation.is_due(self._plan, step):
      missed_evaluation.make_up(self, self.task.logging_dir)
    return logs

  def _steps_of_loop(self, asked: int) -> int:
    """Returns the steps of the next loop, the same on all ranks.

    Loops end where those of the uninterrupted run do, wherever this one resumed.
    """
    loop = self.config.trainer.steps_per_loop
    own = min(asked, loop - self._step() % loop)
    # Rank 0's: after a recovery others know its step only once they have taken over.
    return ranks.broadcast_int(self._strategy, own)

  def _is_off_orbits_grid(self, step: int) -> bool:
    """Whether orbit, counting from where it resumed, has no evaluation here."""
    if not missed_evaluation.evaluates() or step >= self._plan.train_steps:
      return False
    return bool((step - (self._first_step or 0)) % self._plan.validation_interval)

  def train_loop_end(self) -> dict[str, Any]:
    """Looks at the loss of the loop, and repeats what failed."""
    self._check_loss()
    self._checkpoint.repeat_failure()
    return super().train_loop_end()

  def _check_loss(self) -> None:
    """Ends the training after a bad loss, or leaves it to Model Garden's recovery."""
    replicas = self._strategy.num_replicas_in_sync
    bad = self._train_loss.first_bad_update(replicas)
    if bad is None:
      return
    what = f"the loss of step {self._loop_start + bad} is NaN or infinite"
    allowed = self.config.trainer.recovery_max_trials
    # Model Garden recovers from NaN and from what is above a bound: not from -infinity.
    is_below = float(self._train_loss.result()) == -math.inf
    if self._recoveries < allowed and not is_below:
      self._recoveries += 1
      logging.error(
        "%s; going back to the last checkpoint, time %d of %d "
        "(trainer.recovery_max_trials).",
        what,
        self._recoveries,
        allowed,
      )
      return
    raise finite.NotFiniteError(
      f"{what}; checkpoints before it are kept. Lower the learning rate, lengthen the "
      "warm-up, or set trainer.recovery_max_trials to go back to the last checkpoint "
      "so many times."
    )

  # ---- Ends ----

  @contextlib.contextmanager
  def _ending_well(self) -> Iterator[None]:
    """Lets the other ranks know of an error that ends this one."""
    with self._watchdog.broadcast_errors():
      try:
        yield
      except tf.errors.OpError:
        self._watchdog.wait_for_diagnosis()
        raise

  def _save_and_end(self) -> NoReturn:
    """Saves a checkpoint of this step on all ranks, and ends the process."""
    step, trainer = self._step(), self.config.trainer
    is_first = ranks.rank(self._strategy) == 0
    manager = tf.train.CheckpointManager(
      self.checkpoint,
      directory=self.task.logging_dir if is_first else tempfile.mkdtemp(),
      max_to_keep=trainer.max_to_keep,
    )
    path = manager.save(checkpoint_number=step)
    # Launchers end all ranks once one has ended: none may before rank 0 has written.
    ranks.wait_for_all(self._strategy)
    self._watchdog.stop()
    logging.info("Asked to end at step %d; checkpoint: %s", step, path)
    termination.end_process()

  # ---- Evaluation ----

  def eval_begin(self) -> Any:
    """Starts counting the steps of this evaluation."""
    self._evaluation_steps = 0
    self._evaluation_parts.begin()
    return super().eval_begin()

  def eval_reduce(self, state: Any = None, step_outputs: Any = None) -> Any:
    """Called after each step of an evaluation: notices a SIGTERM."""
    self._evaluation_steps += 1
    if self._evaluation_steps >= self._evaluation_parts.steps:
      self._evaluation_parts.end(self._evaluation_steps)
      self._evaluation_steps = 0
    return super().eval_reduce(state, step_outputs)

  def evaluate(self, num_steps: tf.Tensor) -> dict[str, Any]:
    """Evaluates, unless the uninterrupted run would not do so at this step.

    Asked to end meanwhile, it leaves the weights as training had them.
    """
    is_due = missed_evaluation.is_due(self._plan, self._step())
    if missed_evaluation.evaluates() and not is_due:
      return {}
    try:
      with self._ending_well():
        logs = super().evaluate(num_steps)
    except termination.Terminated:
      optimizer = self._optimizer
      if isinstance(optimizer, ExponentialMovingAverage) and optimizer.is_swapped:
        optimizer.swap_weights()
      self._save_and_end()
    self._evaluated_step = self._step()
    return logs

  def _evaluate_if_owed(self) -> None:
    """Runs the evaluation that an interrupted run owes at the step it resumes at."""
    owed = (
      missed_evaluation.evaluates()
      and ranks.rank(self._strategy) == 0
      and missed_evaluation.is_owed(self.task.logging_dir, self._plan, self._step())
    )
    if ranks.broadcast_int(self._strategy, int(owed)):
      missed_evaluation.make_up(self, self.task.logging_dir)

  def _at_sync(self) -> None:
    """Called before an evaluation and at the end: settles what the end demands."""
    if self._step() < self.config.trainer.train_steps:
      return
    if self._first_step is None:  # resumed at the last step: orbit does nothing at all
      self._first_step = self._step()
      self._evaluate_if_owed()
    if self._evaluated_step == self._step() or not missed_evaluation.evaluates():
      self._watchdog.stop()
      self._checkpoint.require_saved()
