"""A learning rate of their own for some of the variables that an optimizer updates."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError

_MULTIPLIED = "multiplied"  # key of Keras's `apply_state`; its own are tuples


def multiply_learning_rate(
  optimizer: keras.optimizers.legacy.Optimizer,
  variables: Sequence[tf.Variable],
  multiplier: float,
) -> None:
  """Makes an optimizer update variables at a multiple of its learning rate.

  The rate is multiplied where the update is computed, so that each update, momentum
  included, is the one of an optimizer with that rate: RMSProp and Adam would undo a
  factor of the gradients. Slots and checkpoints stay as they are. Calling it again
  changes nothing.

  Args:
    optimizer: Optimizer that computes the steps, not its moving average.
    variables: Trainable variables of the model.
    multiplier: Factor of the learning rate, 0 or more.

  Raises:
    UserError: If the optimizer is of Keras's new kind.
  """
  if not isinstance(optimizer, keras.optimizers.legacy.Optimizer):
    raise UserError(
      f"a learning rate multiplier needs an optimizer of keras.optimizers.legacy, for "
      f"instance 'rmsprop_tf1' or 'sgd'; {type(optimizer).__name__} is none."
    )
  if hasattr(optimizer, "multiplied_variables"):
    return
  optimizer.multiplied_variables = frozenset(
    of_replica._unique_id
    for variable in variables
    for of_replica in getattr(variable, "values", (variable,))
  )
  prepare, update = optimizer._prepare, optimizer._resource_apply_dense

  def prepare_both(variables: Sequence[tf.Variable]) -> dict[Any, Any]:
    """Returns what updates are computed from, once for each of the two rates."""
    state = prepare(variables)
    rate = optimizer._decayed_lr
    optimizer._decayed_lr = lambda dtype: rate(dtype) * tf.cast(multiplier, dtype)
    try:
      state[_MULTIPLIED] = prepare(variables)
    finally:
      optimizer._decayed_lr = rate
    return state

  def update_at_own_rate(
    gradient: tf.Tensor, variable: tf.Variable, apply_state: dict[Any, Any]
  ) -> tf.Operation:
    if variable._unique_id in optimizer.multiplied_variables:
      apply_state = apply_state[_MULTIPLIED]
    return update(gradient, variable, apply_state=apply_state)

  optimizer._prepare = prepare_both
  optimizer._resource_apply_dense = update_at_own_rate
