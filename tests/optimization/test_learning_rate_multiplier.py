"""Variables at a multiple of the rate, against an optimizer that has that rate."""

import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.optimization.learning_rate_multiplier import multiply_learning_rate
from mnv2_hpu.optimization.rmsprop_tf1 import RMSpropTF1

LEGACY = keras.optimizers.legacy
OPTIMIZERS = {
  "rmsprop_tf1": lambda rate: RMSpropTF1(rate, epsilon=0.01),
  "rmsprop": lambda rate: LEGACY.RMSprop(rate, momentum=0.9),
  "adam": LEGACY.Adam,
  "sgd": lambda rate: LEGACY.SGD(rate, momentum=0.9, nesterov=True),
}


def _train(optimizer, multiplier=1.0):
  """Returns two variables after five steps; the first has a multiple of the rate."""
  backbone, head = (tf.Variable([1.0, -2.0, 3.0], name=n) for n in ("backbone", "head"))

  @tf.function
  def step(scale):
    if multiplier != 1:
      multiply_learning_rate(optimizer, [backbone], multiplier)
    optimizer.apply_gradients([(scale * (v * v + 0.1), v) for v in (backbone, head)])

  for number in range(5):
    step(tf.constant(0.1 * (number + 1)))
  return backbone.numpy(), head.numpy()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_variable_is_updated_at_its_own_rate(name):
  """A quarter is exact in binary, so the bits must be equal."""
  build = OPTIMIZERS[name]
  schedule = keras.optimizers.schedules.CosineDecay
  backbone, head = _train(build(schedule(0.02, 20)), multiplier=0.25)
  slow, _ = _train(build(schedule(0.005, 20)))
  _, fast = _train(build(schedule(0.02, 20)))
  np.testing.assert_array_equal(backbone, slow)
  np.testing.assert_array_equal(head, fast)
  assert not np.array_equal(slow, fast)


def test_an_optimizer_of_the_new_kind_is_refused():
  with pytest.raises(UserError, match=r"keras\.optimizers\.legacy"):
    multiply_learning_rate(keras.optimizers.SGD(), [], 0.1)
