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
  before = current_step()
  _current.step = step
  try:
    yield
  finally:
    _current.step = before


def current_step() -> Any:
  """Returns the step that `dropout_step` has set; None outside of it."""
  return getattr(_current, "step", None)


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
  step = current_step()
  if step is None:
    raise RuntimeError(
      "a stateless dropout layer was called for training outside of "
      "mnv2_hpu.modeling.stateless_dropout.dropout_step(step)."
    )
  return tf.nn.experimental.stateless_dropout(
    inputs, rate, _seed(key, step), rng_alg="philox", noise_shape=noise_shape
  )


def _seed(key: tuple[int, int], step: Any) -> tf.Tensor:
  """Returns the seed of a layer at a step on this replica."""
  seed = tf.constant(key, tf.int32)
  context = tf.distribute.get_replica_context()
  for number in (step, context.replica_id_in_sync_group if context else 0):
    seed = tf.random.experimental.stateless_fold_in(
      seed, tf.cast(tf.convert_to_tensor(number), tf.int32), alg="philox"
    )
  return seed


@keras.utils.register_keras_serializable(package="mnv2_hpu")
class DropPath(keras.layers.Layer):
  """Scheduled drop path (arXiv 1707.07012, section 3.1): drops whole examples.

  In training an example of `[batch, ...]` is set to zero, or divided by the probability
  to be kept. That falls in a line from 1 at step 0, which `dropout_step` gives. Outside
  of it, as in Model Garden's own tasks, it is at its end. Source: `drop_path` and
  `_apply_drop_path` of slim's `nasnet_utils.py`.

  Attributes:
    keep_prob: Probability to be kept, after `total_steps`.
    total_steps: Steps in which it falls from 1.
    key: Seed, and number of the layer; None draws otherwise each time.
  """

  def __init__(self, keep_prob: float, total_steps: int, **kwargs: Any) -> None:
    super().__init__(**kwargs)
    self.keep_prob = keep_prob
    self.total_steps = total_steps
    self.key: tuple[int, int] | None = None

  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Returns `inputs`, in training with examples dropped; not where it is frozen."""
    if not training or not self.trainable:
      return inputs
    step = current_step()
    keep = self.keep_prob_at(self.total_steps if step is None else step)
    shape = [tf.shape(inputs)[0], *[1] * (inputs.shape.rank - 1)]
    if step is None or self.key is None:
      drawn = tf.random.uniform(shape)
    else:
      drawn = tf.random.stateless_uniform(shape, _seed(self.key, step), alg="philox")
    scale = tf.floor(keep + drawn) / keep
    return inputs * tf.cast(scale, inputs.dtype)

  def keep_prob_at(self, step: tf.types.experimental.TensorLike) -> tf.Tensor:
    """Returns the probability to be kept at a step, float32."""
    done = tf.cast(tf.convert_to_tensor(step), tf.float32) / self.total_steps
    return 1 - tf.minimum(1.0, done) * (1 - self.keep_prob)

  def get_config(self) -> dict[str, Any]:
    """Returns the constructor's arguments."""
    own = {"keep_prob": self.keep_prob, "total_steps": self.total_steps}
    return {**super().get_config(), **own}


def make_dropout_stateless(model: keras.Model, seed: int) -> None:
  """Makes dropout and drop path of a model draw from the seed and the step.

  The order of the layers numbers them, so each draws its own. Calling such a model for
  training needs `dropout_step`; evaluation draws nothing.

  Args:
    model: Model of which the dropout layers of its own are changed, and the drop paths
      of the models that are its layers.
    seed: Seed of 32 bits.
  """
  layers = [layer for layer in model.layers if type(layer) is keras.layers.Dropout]
  for number, layer in enumerate(layers):
    layer._random_generator.dropout = functools.partial(_dropout, (seed, number))
  nested = (x for layer in model.layers for x in getattr(layer, "layers", ()))
  paths = (layer for layer in nested if isinstance(layer, DropPath))
  for number, path in enumerate(paths, start=len(layers)):
    path.key = (seed, number)
