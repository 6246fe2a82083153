"""Several ranks, one model: rank 0's at the start, and the same on all ever after."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from mnv2_hpu.compat import keras
from mnv2_hpu.distribute import batch_statistics, rank_check, ranks


def create_slots(optimizer: Any, variables: Sequence[tf.Variable]) -> None:
  """Creates what an optimizer keeps of each variable, which Keras does at step 1.

  A checkpoint is then read into variables that exist, on every rank the same ones.

  Args:
    optimizer: Keras's, legacy or new, or one that wraps such.
    variables: those that it will update.
  """
  if isinstance(optimizer, keras.optimizers.Optimizer):
    optimizer.build(variables)
  else:
    optimizer._create_all_weights(variables)


def trained_variables(checkpoint: tf.train.Checkpoint) -> list[tf.Variable]:
  """Returns all variables that a checkpoint of the trainer holds, slots included.

  Left out is its own counter, for ranks need not save equally often.
  """
  counter = checkpoint.save_counter  # made at its first use, which may be one rank's
  objects = tf.train.TrackableView(checkpoint).descendants()
  variables = [trackable for trackable in objects if isinstance(trackable, tf.Variable)]
  # Slots hang on pairs of optimizer and variable, not on an object.
  variables += [
    variable
    for trackable in objects
    if isinstance(trackable, keras.optimizers.legacy.Optimizer)
    for variable in trackable.variables()
  ]
  unique = {id(variable): variable for variable in variables}
  return [variable for variable in unique.values() if variable is not counter]


class OneModel:
  """Gives all ranks rank 0's variables, and checks that they stay the same.

  Args:
    strategy: of all ranks.
    checkpoint: holds all that is trained; its variables exist already.
    step: the step, one of these variables.
    check_intervals: numbers of steps; ranks are checked at the multiples of each of
      them, beside the start and each restore. 0 and less add nothing.
    resync_interval: 0, or steps after which ranks that differ are set to rank 0's
      variables and a warning says what differed; nothing else then ends the run for it
      but the check at the start and after a restore.
  """

  def __init__(
    self,
    strategy: tf.distribute.Strategy,
    checkpoint: tf.train.Checkpoint,
    step: tf.Variable,
    check_intervals: Sequence[int],
    resync_interval: int,
  ) -> None:
    self._strategy = strategy
    self._step = step
    self._check_intervals = tuple(check_intervals)
    self._resync_interval = resync_interval
    self._variables = trained_variables(checkpoint)
    self._synchronise_statistics = batch_statistics.synchroniser(
      strategy, self._variables
    )
    self._seen_step: int | None = None  # None: nothing has run, or values were set

  def invalidate(self) -> None:
    """Says that this rank has set variables otherwise than by training."""
    self._seen_step = None

  def before_steps(self) -> bool:
    """Takes over rank 0's variables where a rank has restored any; checks them.

    Returns:
      Whether variables were restored since the last call of this or `after_steps`: at
      the first call, after `invalidate`, and where the step is not the one seen last.
    """
    step = int(self._step.numpy())
    restored = tf.constant(int(step != self._seen_step))
    if not int(ranks.sum_over_ranks(self._strategy, restored)):
      return False
    ranks.broadcast_variables(self._strategy, self._variables)
    self._seen_step = int(self._step.numpy())
    rank_check.check(self._strategy, self._variables, self._seen_step)
    return True

  def after_steps(self) -> None:
    """Sets replicas to the mean of their batch statistics; checks where it is due.

    Raises:
      RanksDifferError: on all ranks, if they differ and are not to be resynchronised.
    """
    before, step = self._seen_step or 0, int(self._step.numpy())
    self._seen_step = step
    self._synchronise_statistics()
    if self._resync_interval:
      if _crosses(before, step, self._resync_interval):
        self._resynchronise(step)
    elif any(_crosses(before, step, interval) for interval in self._check_intervals):
      rank_check.check(self._strategy, self._variables, step)

  def _resynchronise(self, step: int) -> None:
    difference = rank_check.find_difference(self._strategy, self._variables, step)
    if difference is not None:
      logging.warning("The ranks had drifted apart %s. Set to rank 0's.", difference)
      ranks.broadcast_variables(self._strategy, self._variables)


def _crosses(before: int, after: int, interval: int) -> bool:
  """Whether a multiple of the interval lies in (before, after].

  >>> [_crosses(90, after, 100) for after in (99, 100, 250)], _crosses(0, 9, 0)
  ([False, True, True], False)
  """
  return interval > 0 and before // interval != after // interval
