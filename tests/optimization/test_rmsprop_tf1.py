import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.optimization.rmsprop_tf1 import RMSpropTF1

SETTINGS = [
  {"rho": 0.9, "momentum": 0.9, "epsilon": 1.0},
  {"rho": 0.9, "momentum": 0.0, "epsilon": 1e-3},
  {"rho": 0.5, "momentum": 0.5, "epsilon": 1e-10},
]


def start_and_gradients(num_steps=6):
  rng = np.random.RandomState(0)
  start = rng.standard_normal((3, 4)).astype(np.float32)
  return start, rng.standard_normal((num_steps, 3, 4)).astype(np.float32)


def run(optimizer, variable, gradients):
  for gradient in gradients:
    if isinstance(gradient, np.ndarray):
      gradient = tf.constant(gradient)
    optimizer.apply_gradients([(gradient, variable)])


def run_tf1(start, gradients, rate, rho, momentum, epsilon):
  """The weights after each step of TensorFlow 1's own optimizer, in graph mode."""
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    variable = tf.compat.v1.get_variable("v", initializer=start, use_resource=True)
    gradient = tf.compat.v1.placeholder(tf.float32, start.shape)
    optimizer = tf.compat.v1.train.RMSPropOptimizer(rate, rho, momentum, epsilon)
    step = optimizer.apply_gradients([(gradient, variable)])
    session.run(tf.compat.v1.global_variables_initializer())
    values = []
    for g in gradients:
      session.run(step, {gradient: g})
      values.append(session.run(variable))
  return values


@pytest.mark.parametrize("setting", SETTINGS)
def test_steps_follow_the_formula(setting):
  start, gradients = start_and_gradients()
  rho, momentum, epsilon = setting.values()
  w, s, m = start.astype(np.float64), np.ones((3, 4)), np.zeros((3, 4))
  variable = tf.Variable(start)
  optimizer = RMSpropTF1(0.1, **setting)
  for gradient in gradients:
    s = rho * s + (1 - rho) * gradient**2
    m = momentum * m + 0.1 * gradient / np.sqrt(s + epsilon)
    w = w - m
    run(optimizer, variable, [gradient])
    np.testing.assert_allclose(optimizer.get_slot(variable, "rms"), s, rtol=1e-6)
    slot = optimizer.get_slot(variable, "momentum")
    np.testing.assert_allclose(slot, m, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(variable, w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.fidelity
def test_weights_have_the_bits_of_tensorflow_1(setting, fidelity):
  start, gradients = start_and_gradients()
  expected = run_tf1(start, gradients, 0.1, **setting)
  variable = tf.Variable(start)
  optimizer = RMSpropTF1(0.1, **setting)
  for gradient, value in zip(gradients, expected, strict=True):
    run(optimizer, variable, [gradient])
    np.testing.assert_array_equal(variable, value)
  fidelity(
    f"RMSProp, {setting}",
    f"norm {np.linalg.norm(value):.9g} (tf.compat.v1.train.RMSPropOptimizer)",
    f"norm {np.linalg.norm(variable):.9g}",
    np.abs(variable.numpy() - value).max(),
    "0, every bit",
  )


def test_keras_rmsprop_takes_other_steps():
  """Why the class exists: the mean square of Keras's starts at zero."""
  start, gradients = start_and_gradients(1)
  ours, theirs = tf.Variable(start), tf.Variable(start)
  setting = {"rho": 0.9, "momentum": 0.9, "epsilon": 1.0}
  run(RMSpropTF1(0.1, **setting), ours, gradients)
  run(keras.optimizers.legacy.RMSprop(0.1, **setting), theirs, gradients)
  assert (np.abs(theirs - start) > np.abs(ours - start)).all()


def test_sparse_gradients_leave_other_rows_alone():
  start = np.ones((4, 2), np.float32)
  rows = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
  sparse, dense = tf.Variable(start), tf.Variable(start[[0, 2]])
  run(RMSpropTF1(0.1), sparse, [tf.IndexedSlices(rows, [0, 2], [4, 2])] * 3)
  run(RMSpropTF1(0.1), dense, [rows] * 3)
  np.testing.assert_allclose(sparse.numpy()[[0, 2]], dense, atol=1e-6)
  np.testing.assert_array_equal(sparse.numpy()[[1, 3]], start[[1, 3]])


def test_clipnorm_clips():
  gradient = np.array([3.0, 4.0], np.float32)
  clipped, unit = tf.Variable([0.0, 0.0]), tf.Variable([0.0, 0.0])
  run(RMSpropTF1(0.1, clipnorm=1.0), clipped, [gradient])
  run(RMSpropTF1(0.1), unit, [gradient / 5])
  np.testing.assert_allclose(clipped, unit, rtol=1e-6)


def test_the_rate_is_that_of_the_step_before_it_is_counted():
  steps = keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.0])
  variable = tf.Variable([1.0])
  optimizer = RMSpropTF1(steps, rho=0.0, momentum=0.0, epsilon=3.0)
  run(optimizer, variable, np.ones((3, 1), np.float32))
  np.testing.assert_allclose(variable, [0.5])  # 1 - 1 / sqrt(1 + 3), then rate 0


def test_a_restored_run_continues_bit_by_bit(tmp_path):
  start, gradients = start_and_gradients(8)
  rate = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5, staircase=True)
  straight = tf.Variable(start)
  run(RMSpropTF1(rate), straight, gradients)

  first, optimizer = tf.Variable(start), RMSpropTF1(rate)
  run(optimizer, first, gradients[:4])
  path = tf.train.Checkpoint(v=first, optimizer=optimizer).save(tmp_path / "ckpt")

  second, optimizer = tf.Variable(np.zeros_like(start)), RMSpropTF1(rate)
  tf.train.Checkpoint(v=second, optimizer=optimizer).restore(path)
  run(optimizer, second, gradients[4:])
  np.testing.assert_array_equal(second, straight)


def test_config_round_trip():
  optimizer = RMSpropTF1(0.25, rho=0.5, momentum=0.75, epsilon=2.0, clipnorm=1.5)
  restored = keras.optimizers.deserialize(
    keras.optimizers.serialize(optimizer), use_legacy_optimizer=True
  )
  assert isinstance(restored, RMSpropTF1)
  config = restored.get_config()
  expected = {"learning_rate": 0.25, "rho": 0.5, "momentum": 0.75, "epsilon": 2.0}
  assert config == {"name": "RMSpropTF1", "decay": 0.0, "clipnorm": 1.5, **expected}


@pytest.mark.parametrize(
  ("name", "value"), [("rho", 1.0), ("rho", -0.1), ("momentum", 1.0), ("epsilon", 0.0)]
)
def test_impossible_values_are_named(name, value):
  with pytest.raises(UserError, match=f"{name} is {value!r}"):
    RMSpropTF1(0.1, **{name: value})
