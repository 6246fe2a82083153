"""One model on several ranks: rank 0's at the start, and the same ever after.

Where batch normalisation is not synchronised, each replica updates its own mean and
variance (and their shadow variables): these are replica-local (`ON_READ`), and reading
one gives the mean over all replicas. A checkpoint holds that mean, so a run that is
resumed goes on from other values than one that is not interrupted. Setting the replicas
to the mean now and then changes nothing that is read later, as all updates of the
statistics are linear, but makes the two the same run. Bit for bit so where the number
of replicas is a power of two: else the mean of equal numbers may round to another one.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from mnv2_hpu.compat import keras
from mnv2_hpu.distribute import rank_check, ranks

_ON_READ = tf.VariableSynchronization.ON_READ


def create_slots(optimizer: Any, variables: Sequence[tf.Variable]) -> None:
  """Creates an optimizer's slot variables, which Keras does at step 1.

  A checkpoint is then read into variables that exist, on every rank the same ones.

  Args:
    optimizer: Optimizer of Keras, legacy or new, or one that wraps such.
    variables: Variables that it will update.
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


def _statistics_synchronizer(
  strategy: tf.distribute.Strategy, variables: Iterable[tf.Variable]
) -> Callable[[], None]:
  """Returns a function that sets the replicas' own statistics to the mean over all.

  Args:
    strategy: Strategy of all replicas; all its processes call the function.
    variables: Any variables; those that are not replica-local are left alone.
  """
  groups: dict[tf.DType, list[tf.Variable]] = {}
  for variable in variables:
    is_mean = variable.aggregation == tf.VariableAggregation.MEAN
    if variable.synchronization == _ON_READ and is_mean and variable.dtype.is_floating:
      groups.setdefault(variable.dtype, []).append(variable)
  if strategy.num_replicas_in_sync == 1 or not groups:
    return lambda: None

  def of_replica() -> None:
    context = tf.distribute.get_replica_context()
    for group in groups.values():
      flat = tf.concat([tf.reshape(v.read_value(), [-1]) for v in group], axis=0)
      mean = context.all_reduce(tf.distribute.ReduceOp.MEAN, flat)
      parts = tf.split(mean, [v.shape.num_elements() for v in group])
      for variable, part in zip(group, parts, strict=True):
        variable.assign(tf.reshape(part, variable.shape))

  @tf.function
  def synchronize() -> None:
    strategy.run(of_replica)

  return synchronize


@contextlib.contextmanager
def read_locally(variables: Iterable[tf.Variable]) -> Iterator[None]:
  """Makes reading give what the first local replica holds, without a collective.

  For writing a checkpoint on one rank alone, after `VariableSync.sync_and_check` has
  made the replicas equal. Ranks need not agree then when to save: after a resume their
  checkpoint managers do not, nor do those who look for the best checkpoint.

  Args:
    variables: Any variables; those that are not reduced when read are left alone.
  """
  reduced = [
    # A variable that is cast when it is used wraps the one that is reduced; `getattr`
    # would already reduce that.
    vars(variable).get("_variable", variable)
    for variable in variables
    if variable.synchronization == _ON_READ
  ]
  aggregations = [variable._aggregation for variable in reduced]
  for variable in reduced:
    variable._aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA
  try:
    yield
  finally:
    for variable, aggregation in zip(reduced, aggregations, strict=True):
      variable._aggregation = aggregation


class VariableSync:
  """Gives all ranks rank 0's variables, and checks that they stay the same.

  Args:
    strategy: Strategy of all ranks.
    checkpoint: Checkpoint of all that is trained; its variables exist already.
    step: Variable of the step, one of these.
    check_intervals: Numbers of steps; ranks are checked at the multiples of each of
      them, beside the start and each restore. 0 and less add nothing.
    resync_interval: Steps after which ranks that differ are set to rank 0's variables,
      with a warning of what differed, or 0; nothing else then ends the run for it but
      the check at the start and after a restore.
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
    self._synchronize_statistics = _statistics_synchronizer(strategy, self._variables)
    self._last_step: int | None = None  # None: nothing has run, or values were set

  def invalidate(self) -> None:
    """Records that this rank has set variables otherwise than by training."""
    self._last_step = None

  def broadcast_if_restored(self) -> bool:
    """Broadcasts and checks rank 0's variables where a rank has restored any.

    Returns:
      Whether variables were restored since the last call of this or `sync_and_check`:
      at the first call, after `invalidate`, and where the step is not the last one.
    """
    step = int(self._step.numpy())
    is_restored = np.array(step != self._last_step)
    if not ranks.gather(self._strategy, is_restored).any():
      return False
    ranks.broadcast_variables(self._strategy, self._variables)
    self._last_step = int(self._step.numpy())
    rank_check.check(self._strategy, self._variables, self._last_step)
    return True

  def sync_and_check(self) -> None:
    """Sets replicas to the mean of their batch statistics; checks where it is due.

    Raises:
      RanksDifferError: On all ranks, if they differ and are not to be resynchronised.
    """
    before, step = self._last_step or 0, int(self._step.numpy())
    self._last_step = step
    self._synchronize_statistics()
    if self._resync_interval:
      if _crosses(before, step, self._resync_interval):
        self._resync(step)
    elif any(_crosses(before, step, interval) for interval in self._check_intervals):
      rank_check.check(self._strategy, self._variables, step)

  def _resync(self, step: int) -> None:
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
