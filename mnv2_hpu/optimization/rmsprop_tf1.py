"""RMSProp as TensorFlow 1 and slim compute it."""

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError


def _check(
  name: str, value: Any, allowed: str, in_range: Callable[[Any], bool]
) -> None:
  if isinstance(value, numbers.Real) and not in_range(value):
    raise UserError(f"RMSpropTF1: {name} is {value!r}; it must be {allowed}.")


@keras.utils.register_keras_serializable(package="mnv2_hpu")
class RMSpropTF1(keras.optimizers.legacy.RMSprop):
  """RMSProp whose mean square starts at one and whose epsilon is inside the root.

  With g the gradient of the weight w, and the slots s (`rms`) and m (`momentum`)::

      s <- rho * s + (1 - rho) * g^2                                  from s = 1
      m <- momentum * m + learning_rate * g / sqrt(s + epsilon)       from m = 0
      w <- w - m

  This is `tf.compat.v1.train.RMSPropOptimizer`, which slim's
  `train_image_classifier.py` uses with rho 0.9, momentum 0.9 and epsilon 1.0. Keras's
  RMSprop starts the mean square at zero, which makes its first steps longer, and
  without momentum adds epsilon outside of the root.

  Args:
    learning_rate: Number, or a schedule of the step before it is counted.
    rho: Decay of the mean square, in [0, 1).
    momentum: Decay of the steps, in [0, 1).
    epsilon: Number below the root, positive.
    name: Name of the optimizer.
    **kwargs: `clipnorm`, `clipvalue`, `global_clipnorm` and the rest that every legacy
      Keras optimizer takes.

  Raises:
    UserError: If a value is out of its range.
  """

  def __init__(
    self,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.045,
    rho: float = 0.9,
    momentum: float = 0.9,
    epsilon: float = 1.0,
    name: str = "RMSpropTF1",
    **kwargs: Any,
  ) -> None:
    _check("rho", rho, "at least 0 and below 1", lambda v: 0 <= v < 1)
    _check("momentum", momentum, "at least 0 and below 1", lambda v: 0 <= v < 1)
    _check("epsilon", epsilon, "positive", lambda v: v > 0)
    super().__init__(
      learning_rate, rho=rho, momentum=momentum, epsilon=epsilon, name=name, **kwargs
    )
    # Also without momentum take the branch of Keras that calls TF1's own kernels.
    self._momentum = True

  def _create_slots(self, var_list: Sequence[tf.Variable]) -> None:
    """Adds the slots `rms`, all ones, and `momentum`, all zeros."""
    for variable in var_list:
      self.add_slot(variable, "rms", initializer="ones")
    for variable in var_list:
      self.add_slot(variable, "momentum")

  def get_config(self) -> dict[str, Any]:
    """Returns what `from_config` builds an equal optimizer from."""
    config = super().get_config()
    del config["centered"]
    return config
