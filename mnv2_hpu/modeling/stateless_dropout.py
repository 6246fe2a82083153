"""Dropout as a function of the seed and the step, so that a resumed run repeats it.

Keras' dropout draws from a generator inside of the operation: its state is in no
checkpoint, and starts again with the process.
"""

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from mnv2_hpu.compat import keras

_current = threading.local()  # each replica is traced in a thread of its own


@contextlib.contextmanager
def dropout_step(step: tf.types.experimental.TensorLike) -> Iterator[None]:
  """Sets the step that dropout of `make_dropout_stateless` draws for.

  Args:
    step: int64 scalar, a tensor or a variable, read where the layer is called.
  """
  before = getattr(_current, "step", None)
  _current.step = step
  try:
    yield
  finally:
    _current.step = before


def _dropout(
  key: tuple[int, int], inputs: tf.Tensor, rate: float, noise_shape: Any = None
) -> tf.Tensor:
  """Returns `inputs`, a fraction `rate` of them set to zero, the others scaled up.

  Args:
    key: The seed, and the number of the layer.
    inputs: Tensor of any shape and floating type.
    rate: Fraction that is set to zero, in [0, 1).
    noise_shape: Shape of the mask, as Keras' dropout has it.

  Raises:
    RuntimeError: If called outside of `dropout_step`.
  """
  step = getattr(_current, "step", None)
  if step is None:
    raise RuntimeError(
      "a stateless dropout layer was called for training outside of "
      "mnv2_hpu.modeling.stateless_dropout.dropout_step(step)."
    )
  seed = tf.constant(key, tf.int32)
  context = tf.distribute.get_replica_context()
  for number in (step, context.replica_id_in_sync_group if context else 0):
    seed = tf.random.experimental.stateless_fold_in(
      seed, tf.cast(tf.convert_to_tensor(number), tf.int32), alg="philox"
    )
  return tf.nn.experimental.stateless_dropout(
    inputs, rate, seed, rng_alg="philox", noise_shape=noise_shape
  )


def make_dropout_stateless(model: keras.Model, seed: int) -> None:
  """Makes the dropout layers of a model draw from the seed and the step.

  The order of the layers numbers them, so each draws its own. Calling such a model for
  training needs `dropout_step`; evaluation draws nothing.

  Args:
    model: Model whose own layers are changed.
    seed: Seed of 32 bits.
  """
  layers = [layer for layer in model.layers if type(layer) is keras.layers.Dropout]
  for number, layer in enumerate(layers):
    layer._random_generator.dropout = functools.partial(_dropout, (seed, number))
