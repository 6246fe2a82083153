"""Values that replicas keep for themselves until they are read: batch statistics.

Where batch normalisation is not synchronised, each replica moves its own mean and
variance (and their averages) along, and reading one gives the mean over all replicas.
A checkpoint holds that mean, so a run that is resumed goes on from other values than
one that is not interrupted. Setting the replicas to the mean now and then changes
nothing that is read later, as all updates of the statistics are linear, but makes the
two the same run. Bit for bit so where the number of replicas is a power of two: else
the mean of equal numbers may round to another one.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import tensorflow as tf


def per_replica(variables: Iterable[tf.Variable]) -> list[tf.Variable]:
  """Returns those variables that read as the mean over the replicas."""
  return [
    variable
    for variable in variables
    if variable.synchronization == tf.VariableSynchronization.ON_READ
    and variable.aggregation == tf.VariableAggregation.MEAN
    and variable.dtype.is_floating
  ]


def synchroniser(
  strategy: tf.distribute.Strategy, variables: Iterable[tf.Variable]
) -> Callable[[], None]:
  """Returns a function that sets each replica's own values to the mean over all.

  Args:
    strategy: of all replicas; all its processes call the function.
    variables: any; those that replicas do not keep for themselves are left alone.
  """
  groups: dict[tf.DType, list[tf.Variable]] = {}
  for variable in per_replica(variables):
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
  def synchronise() -> None:
    strategy.run(of_replica)

  return synchronise


@contextlib.contextmanager
def read_locally(variables: Iterable[tf.Variable]) -> Iterator[None]:
  """Makes reading give what the first local replica holds, without a collective.

  For writing a checkpoint on one rank alone, after `synchroniser`'s function has made
  the replicas equal. Ranks need not agree then when to save: after a resume their
  checkpoint managers do not, nor do those who look for the best checkpoint.

  Args:
    variables: any; those that are not reduced when read are left alone.
  """
  reduced = [
    # A variable that is cast when it is used wraps the one that is reduced; `getattr`
    # would already reduce that.
    vars(variable).get("_variable", variable)
    for variable in variables
    if variable.synchronization == tf.VariableSynchronization.ON_READ
  ]
  kept = [variable._aggregation for variable in reduced]
  for variable in reduced:
    variable._aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA
  try:
    yield
  finally:
    for variable, aggregation in zip(reduced, kept, strict=True):
      variable._aggregation = aggregation
