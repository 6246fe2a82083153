"""Losses and weights that are NaN or infinite: the step is named, nothing saved."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from mnv2_hpu.compat import keras
from mnv2_hpu.distribute import ranks
from mnv2_hpu.errors import UserError


class NotFiniteError(UserError):
  """The loss or a weight of a training is NaN or infinite."""


class FiniteMean(keras.metrics.Mean):
  """A mean that also counts its updates before the first non-finite one.

  It replaces the trainer's mean of the loss. Each replica counts for itself and the
  counts are summed: a loss that is NaN on one replica makes all weights NaN by that
  step's gradients, so on all others the next loss at the latest is NaN as well.

  Attributes:
    steps_since_non_finite: Steps before the last reset, from the first non-finite one
      on, that one included; 0 where all were finite.
  """

  steps_since_non_finite = 0

  def __init__(self, name: str = "mean", dtype: Any = None) -> None:
    super().__init__(name=name, dtype=dtype)
    self._all_finite = self.add_weight(name="all_finite", initializer="ones")
    self._num_finite_updates = self.add_weight(
      name="num_finite_updates", initializer="zeros"
    )

  def update_state(self, values: Any, sample_weight: Any = None) -> Any:
    """Adds one value, as Keras' mean does, and counts it while all were finite."""
    is_finite = tf.reduce_all(tf.math.is_finite(tf.cast(values, tf.float32)))
    self._all_finite.assign(
      self._all_finite * tf.cast(is_finite, self._all_finite.dtype)
    )
    self._num_finite_updates.assign_add(self._all_finite)
    return super().update_state(values, sample_weight)

  def reset_state(self) -> None:
    """Forgets all values, but keeps how long ago they were last all finite."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    updates = round(float(self.count.read_value()) / replicas)
    finite = int(float(self._num_finite_updates.read_value()) // replicas)
    self.steps_since_non_finite = max(0, updates - finite)
    super().reset_state()
    # What is assigned outside of replicas is shared out among them, as sums are.
    self._all_finite.assign(replicas * tf.ones_like(self._all_finite))


def require_finite(
  strategy: tf.distribute.Strategy, variables: Iterable[tf.Variable], step: int
) -> None:
  """Refuses variables that hold a NaN or an infinity.

  Args:
    strategy: Strategy of the variables.
    variables: Variables of any type; those of integers are finite.
    step: Step that the message names.

  Raises:
    NotFiniteError: Naming the first such variable.
  """
  for variable in variables:
    if not variable.dtype.is_floating:
      continue
    value = ranks.local_value(strategy, variable).astype(np.float32, copy=False)
    if not np.isfinite(value).all():
      raise NotFiniteError(
        f"after step {step} the variable {variable.name!r} holds NaN or infinity: no "
        "checkpoint was written. Lower the learning rate, or go on from the last "
        "checkpoint with other settings."
      )
