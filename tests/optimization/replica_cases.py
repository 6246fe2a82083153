"""Two replicas on two logical CPUs; `test_two_replicas.py` runs this in a process.

The devices must be set before TensorFlow's first operation, so these cannot share a
process with other tests.
"""

import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.compat import keras
from mnv2_hpu.optimization.exponential_moving_average import ExponentialMovingAverage
from mnv2_hpu.optimization.learning_rate import learning_rate_table
from mnv2_hpu.optimization.learning_rate_multiplier import multiply_learning_rate
from mnv2_hpu.optimization.rmsprop_tf1 import RMSpropTF1

BATCH = 8


@pytest.fixture(scope="session")
def strategy():
  cpu = tf.config.list_physical_devices("CPU")[0]
  two = [tf.config.LogicalDeviceConfiguration()] * 2
  tf.config.set_logical_device_configuration(cpu, two)
  return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(params=["float32", "mixed_bfloat16"])
def policy(request):
  keras.mixed_precision.set_global_policy(request.param)
  yield request.param
  keras.mixed_precision.set_global_policy("float32")


def build(scope, batch_norm=True):
  keras.utils.set_random_seed(1)
  with scope:
    norm = [keras.layers.BatchNormalization(momentum=0.5)] if batch_norm else []
    model = keras.Sequential(
      [
        keras.layers.Dense(3, input_shape=(4,)),
        *norm,
        keras.layers.Dense(2, dtype="float32"),
      ]
    )
    optimizer = ExponentialMovingAverage(RMSpropTF1(0.1))
    optimizer.shadow_copy(model)
  return model, optimizer


def batch(index):
  rng = np.random.RandomState(index)
  return [rng.standard_normal((BATCH, n)).astype(np.float32) for n in (4, 2)]


def trainer(strategy, model, optimizer):
  """Returns a compiled step over a batch that is split between the replicas."""
  replicas = strategy.num_replicas_in_sync
  share = BATCH // replicas

  def step(images, targets):
    with tf.GradientTape() as tape:
      error = (model(images, training=True) - targets) ** 2
      loss = tf.reduce_mean(error) / replicas
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

  @tf.function
  def run(*arrays):
    strategy.run(step, args=arrays)

  def split(array):
    def of_replica(context):
      first = context.replica_id_in_sync_group * share
      return tf.constant(array[first : first + share])

    return strategy.experimental_distribute_values_from_function(of_replica)

  return lambda index: run(*map(split, batch(index)))


def local(strategy, variables):
  """Values by variable and replica."""
  return [
    [part.numpy() for part in strategy.experimental_local_results(v)] for v in variables
  ]


def averages(model, optimizer):
  return [optimizer.get_slot(v, "average") for v in model.variables]


def assert_same_bits(actual, expected):
  for a, e in zip(actual, expected, strict=True):
    assert [x.tobytes() for x in a] == [x.tobytes() for x in e]


def test_each_replica_averages_what_it_holds(strategy, policy):
  model, optimizer = build(strategy.scope())
  expected = local(strategy, model.variables)
  assert_same_bits(local(strategy, averages(model, optimizer)), expected)
  step = trainer(strategy, model, optimizer)
  for n in range(4):
    step(n)
    share = 1 - min(0.9999, (1 + n) / (10 + n))
    weights = local(strategy, model.variables)
    expected = [
      [e - share * (e - v) for e, v in zip(es, vs, strict=True)]
      for es, vs in zip(expected, weights, strict=True)
    ]
    actual = local(strategy, averages(model, optimizer))
    np.testing.assert_allclose(
      np.concatenate([np.ravel(a) for a in actual]),
      np.concatenate([np.ravel(e) for e in expected]),
      rtol=1e-5,
      atol=1e-6,
    )
  moving_mean = next(v for v in model.variables if "moving_mean" in v.name)
  first, second = local(strategy, [moving_mean])[0]
  assert not np.array_equal(first, second)  # each saw its own half
  average = optimizer.get_slot(moving_mean, "average")
  (of_each,) = local(strategy, [average])
  np.testing.assert_allclose(average.numpy(), np.mean(of_each, axis=0), rtol=1e-6)


def test_swapping_twice_restores_each_bit_on_each_replica(strategy, policy):
  model, optimizer = build(strategy.scope())
  step = trainer(strategy, model, optimizer)
  step(0)
  step(1)
  weights = local(strategy, model.variables)
  shadows = local(strategy, averages(model, optimizer))
  with strategy.scope():
    optimizer.swap_weights()
  assert optimizer.is_swapped
  assert_same_bits(local(strategy, model.variables), shadows)
  assert_same_bits(local(strategy, averages(model, optimizer)), weights)
  optimizer.swap_weights()  # the scope is entered if it was left
  assert not optimizer.is_swapped
  assert_same_bits(local(strategy, model.variables), weights)
  assert_same_bits(local(strategy, averages(model, optimizer)), shadows)


def test_two_replicas_compute_what_one_does(strategy):
  results = []
  for scope in (tf.distribute.get_strategy(), strategy):
    model, optimizer = build(scope.scope(), batch_norm=False)
    step = trainer(scope, model, optimizer)
    for n in range(4):
      step(n)
    variables = model.variables + averages(model, optimizer)
    results.append(np.concatenate([np.ravel(v.numpy()) for v in variables]))
  np.testing.assert_allclose(results[1], results[0], rtol=1e-5, atol=1e-6)


def test_a_checkpoint_is_read_by_one_replica(strategy, tmp_path):
  model, optimizer = build(strategy.scope())
  trainer(strategy, model, optimizer)(0)
  expected = [v.numpy() for v in model.variables + averages(model, optimizer)]
  checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
  path = checkpoint.save(tmp_path / "ckpt")

  model, optimizer = build(tf.distribute.get_strategy().scope())
  status = tf.train.Checkpoint(model=model, optimizer=optimizer).restore(path)
  status.assert_existing_objects_matched()
  actual = [v.numpy() for v in model.variables + averages(model, optimizer)]
  for a, e in zip(actual, expected, strict=True):
    np.testing.assert_array_equal(a, e)


def test_averages_are_reset_on_each_replica(strategy):
  model, optimizer = build(strategy.scope())
  trainer(strategy, model, optimizer)(0)
  with strategy.scope():
    optimizer.reset_shadow_variables()
  assert_same_bits(
    local(strategy, averages(model, optimizer)), local(strategy, model.variables)
  )


def test_a_multiple_of_the_rate_is_that_rate_on_each_replica(strategy, policy):
  """A quarter is exact in binary, so the bits must be equal."""

  def updates(rate, multiplier):
    model, optimizer = build(strategy.scope(), batch_norm=False)
    optimizer.base_optimizer.learning_rate = rate
    before = local(strategy, model.trainable_variables)
    multiply_learning_rate(
      optimizer.base_optimizer, model.layers[0].trainable_variables, multiplier
    )
    trainer(strategy, model, optimizer)(0)
    after = local(strategy, model.trainable_variables)
    assert not any(np.array_equal(b, a) for b, a in zip(before, after, strict=True))
    return after

  both = updates(0.1, 0.25)
  assert_same_bits(both[:2], updates(0.025, 1.0)[:2])
  assert_same_bits(both[2:], updates(0.1, 1.0)[2:])


def test_a_constant_learning_rate_is_shown_for_all_replicas(strategy):
  with strategy.scope():
    optimizer = RMSpropTF1(0.25)
  rows = learning_rate_table(optimizer.learning_rate, 10, 5.0, num_rows=2)
  assert [(row.step, row.rate) for row in rows] == [(0, 0.25), (9, 0.25)]
