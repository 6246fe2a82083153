"""Losses and weights that are no longer numbers: the step is named, nothing saved."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from mnv2_hpu.compat import keras
from mnv2_hpu.distribute import ranks
from mnv2_hpu.errors import UserError


class NotFiniteError(UserError):
  """A training has left the numbers: its loss or a weight is NaN or infinite."""


class FiniteMean(keras.metrics.Mean):
  """A mean that also counts its updates before the first NaN or infinity.

  It stands in for the trainer's mean of the loss. Each replica counts for itself and
  the counts are summed: a loss that is NaN on one replica makes all weights NaN by that
  step's gradients, so on all others the next loss at the latest is NaN as well.
  """

  def __init__(self, name: str = "mean", dtype: Any = None) -> None:
    super().__init__(name=name, dtype=dtype)
    self._sound = self.add_weight(name="sound", initializer="ones")
    self._sound_updates = self.add_weight(name="sound_updates", initializer="zeros")

  def update_state(self, values: Any, sample_weight: Any = None) -> Any:
    """Adds one value, as Keras' mean does, and counts it while all were finite."""
    is_finite = tf.reduce_all(tf.math.is_finite(tf.cast(values, tf.float32)))
    self._sound.assign(self._sound * tf.cast(is_finite, self._sound.dtype))
    self._sound_updates.assign_add(self._sound)
    return super().update_state(values, sample_weight)

  def reset_state(self) -> None:
    """Forgets all values."""
    super().reset_state()
    # What is assigned outside of replicas is shared out among them, as sums are.
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    self._sound.assign(replicas * tf.ones_like(self._sound))

  def first_bad_update(self, num_replicas: int) -> int | None:
    """Returns which update since the reset was the first bad one, from 1; or None.

    Args:
      num_replicas: over which updates are distributed.
    """
    updates = round(float(self.count.read_value()) / num_replicas)
    sound = int(float(self._sound_updates.read_value()) // num_replicas)
    return sound + 1 if sound < updates else None


def require_finite(
  strategy: tf.distribute.Strategy, variables: Iterable[tf.Variable], step: int
) -> None:
  """Refuses variables that hold a NaN or an infinity.

  Args:
    strategy: of the variables.
    variables: of any type; those of integers are finite.
    step: for the message.

  Raises:
    NotFiniteError: naming the first such variable.
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
