"""The originals' decays with their slow starts, and a table of any learning rate."""

import math
from typing import Any, NamedTuple

import tensorflow as tf

from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError


@keras.utils.register_keras_serializable(package="mnv2_hpu")
class SlimExponentialDecay(keras.optimizers.schedules.LearningRateSchedule):
  """Exponential decay, never above a line from zero, everything times `scale`.

  At each step::

      decayed = initial_learning_rate * decay_rate ^ floor(step / decay_steps)
      line    = initial_learning_rate / warmup_steps * step
      rate    = scale * min(line, decayed)

  The order of the float32 operations is the one in which TensorFlow evaluates the graph
  of slim's `train_image_classifier.py`, so each value has the same bits. Model Garden's
  linear warm-up before its exponential decay is another curve: its line ends at the
  decayed rate.

  Args:
    initial_learning_rate: Learning rate of one replica.
    decay_steps: Steps between two decays, positive.
    decay_rate: Factor of each decay.
    staircase: False decays at every step, by a fraction of the factor.
    warmup_steps: Steps of the line; slim's is not a whole number. 0 has no line.
    scale: Number of replicas, or 1.
    name: Name of the schedule.

  Raises:
    UserError: If a number of steps is impossible.
  """

  def __init__(
    self,
    initial_learning_rate: float,
    decay_steps: int,
    decay_rate: float,
    staircase: bool = True,
    warmup_steps: float = 0.0,
    scale: float = 1.0,
    name: str = "SlimExponentialDecay",
  ) -> None:
    super().__init__()
    if not decay_steps or decay_steps < 0:
      raise UserError(f"decay_steps is {decay_steps!r}; it must be positive.")
    if warmup_steps < 0:
      raise UserError(f"warmup_steps is {warmup_steps!r}; it must be 0 or more.")
    self._config = {
      "initial_learning_rate": initial_learning_rate,
      "decay_steps": decay_steps,
      "decay_rate": decay_rate,
      "staircase": staircase,
      "warmup_steps": warmup_steps,
      "scale": scale,
      "name": name,
    }

  def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
    """Returns the rate of a step, counted from 0: a float32 scalar."""
    config = self._config
    step = tf.cast(step, tf.float32)
    initial = tf.constant(config["initial_learning_rate"], tf.float32)
    power = step / tf.constant(config["decay_steps"], tf.float32)
    if config["staircase"]:
      power = tf.floor(power)
    rate = initial * tf.pow(tf.constant(config["decay_rate"], tf.float32), power)
    if config["warmup_steps"]:
      slope = initial / tf.constant(config["warmup_steps"], tf.float32)
      rate = tf.minimum(slope * step, rate)
    return rate * config["scale"]

  def get_config(self) -> dict[str, Any]:
    """Returns the arguments of the constructor."""
    return dict(self._config)


@keras.utils.register_keras_serializable(package="mnv2_hpu")
class SlowStartPolynomialDecay(keras.optimizers.schedules.PolynomialDecay):
  """research/deeplab's polynomial decay after steps at a low, constant rate.

  The decay begins after these steps, and ends with the training. A line instead of a
  constant is Model Garden's linear warm-up (`warmup_learning_rate`) before its own
  polynomial decay of the same `offset`. Source: `utils/train_utils.py`,
  `get_model_learning_rate`.

  Args:
    slow_start_steps: Steps at the constant rate.
    slow_start_learning_rate: That rate.
    decay_steps: Steps of the whole training.
    **kwargs: Other arguments of Keras' `PolynomialDecay`.
  """

  def __init__(
    self,
    slow_start_steps: int,
    slow_start_learning_rate: float,
    decay_steps: int,
    **kwargs: Any,
  ) -> None:
    if not 0 <= slow_start_steps < decay_steps:
      raise UserError(
        f"slow_start_steps is {slow_start_steps!r}; it must be 0 or more, and below "
        f"the {decay_steps} steps of the training."
      )
    super().__init__(decay_steps=decay_steps - slow_start_steps, **kwargs)
    self._slow_start = {
      "slow_start_steps": slow_start_steps,
      "slow_start_learning_rate": slow_start_learning_rate,
    }

  def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
    """Returns the rate of a step, counted from 0: a float32 scalar."""
    steps, rate = self._slow_start.values()
    decayed = super().__call__(tf.maximum(step - steps, 0))
    return tf.where(step < steps, tf.cast(rate, decayed.dtype), decayed)

  def get_config(self) -> dict[str, Any]:
    """Returns the arguments of the constructor."""
    config = super().get_config()
    decay_steps = config["decay_steps"] + self._slow_start["slow_start_steps"]
    return {**config, **self._slow_start, "decay_steps": decay_steps}


class LearningRateRow(NamedTuple):
  """The learning rate at one step."""

  step: int  # counted from 0
  epoch: float
  rate: float


def learning_rate_table(
  learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
  train_steps: int,
  steps_per_epoch: float,
  num_rows: int = 6,
) -> list[LearningRateRow]:
  """Returns the rate at steps spread evenly from the first to the last.

  Args:
    learning_rate: Learning rate or schedule of an optimizer.
    train_steps: Steps of the training, positive.
    steps_per_epoch: Steps of an epoch, not rounded.
    num_rows: Maximum number of rows, 2 or more.
  """
  last = train_steps - 1
  steps = sorted({math.floor(last * i / (num_rows - 1)) for i in range(num_rows)})
  rates = (
    learning_rate(s) if callable(learning_rate) else learning_rate for s in steps
  )
  return [
    # Of a constant, several replicas have a variable, which has no single value.
    LearningRateRow(step, step / steps_per_epoch, float(keras.backend.get_value(rate)))
    for step, rate in zip(steps, rates, strict=True)
  ]
