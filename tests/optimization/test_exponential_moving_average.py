import numpy as np
import pytest
import tensorflow as tf
from official.core import actions
from official.modeling import optimization
from official.modeling.optimization.configs.optimizer_config import EMAConfig

from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.optimization.exponential_moving_average import (
  ExponentialMovingAverage,
  wrap_with_moving_average,
)
from mnv2_hpu.optimization.rmsprop_tf1 import RMSpropTF1

STRATEGIES = {
  "default": tf.distribute.get_strategy,
  "one_device": lambda: tf.distribute.OneDeviceStrategy("CPU:0"),
}


@pytest.fixture(params=list(STRATEGIES))
def strategy(request):
  return STRATEGIES[request.param]()


def small_model():
  """Ordinary weights and batch statistics."""
  keras.utils.set_random_seed(1)
  return keras.Sequential(
    [
      keras.layers.Dense(3, input_shape=(4,)),
      keras.layers.BatchNormalization(momentum=0.5),
      keras.layers.Dense(2),
    ]
  )


def train_step(model, optimizer, index):
  rng = np.random.RandomState(index)
  images = rng.standard_normal((8, 4)).astype(np.float32)
  targets = rng.standard_normal((8, 2)).astype(np.float32)
  with tf.GradientTape() as tape:
    loss = tf.reduce_mean((model(images, training=True) - targets) ** 2)
  gradients = tape.gradient(loss, model.trainable_variables)
  optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


def built(strategy=None, **arguments):
  with (strategy or tf.distribute.get_strategy()).scope():
    model = small_model()
    optimizer = ExponentialMovingAverage(RMSpropTF1(0.1), **arguments)
    optimizer.shadow_copy(model)
  return model, optimizer


def run(strategy, model, optimizer, indices):
  for index in indices:
    strategy.run(train_step, args=(model, optimizer, index))


def values(variables):
  return [v.numpy() for v in variables]


def averages(model, optimizer):
  return [optimizer.get_slot(v, "average").numpy() for v in model.variables]


def assert_same_bits(actual, expected):
  for a, e in zip(actual, expected, strict=True):
    assert a.tobytes() == e.tobytes()


def test_averages_start_equal_to_the_weights(strategy):
  model, optimizer = built(strategy)
  assert_same_bits(averages(model, optimizer), values(model.variables))


def test_averages_follow_the_formula(strategy):
  model, optimizer = built(strategy, average_decay=0.3)
  expected = values(model.variables)
  for n in range(6):
    run(strategy, model, optimizer, [n])
    decay = min(0.3, (1 + n) / (10 + n))
    expected = [
      e - (1 - decay) * (e - v)
      for e, v in zip(expected, values(model.variables), strict=True)
    ]
    for a, e in zip(averages(model, optimizer), expected, strict=True):
      np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)


def test_averages_have_the_bits_of_tensorflows():
  """`tf.train.ExponentialMovingAverage` called after the step, with its step before."""
  model, optimizer = built()
  start = values(model.variables)
  theirs = [tf.Variable(v) for v in start]
  for n in range(5):
    train_step(model, optimizer, n)
    weights = [tf.Variable(v) for v in values(model.variables)]
    reference = tf.train.ExponentialMovingAverage(0.9999, num_updates=n)
    with tf.init_scope():
      reference.apply(weights)
    for weight, average in zip(weights, theirs, strict=True):
      reference.average(weight).assign(average)
    reference.apply(weights)
    for weight, average in zip(weights, theirs, strict=True):
      average.assign(reference.average(weight))
    assert_same_bits(averages(model, optimizer), values(theirs))


def test_batch_statistics_are_averaged_unless_only_weights_are_asked_for():
  model, optimizer = built(trainable_weights_only=True)
  moving_mean = next(v for v in model.variables if "moving_mean" in v.name)
  with pytest.raises(KeyError):
    optimizer.get_slot(moving_mean, "average")
  train_step(model, optimizer, 0)
  before = moving_mean.numpy()
  optimizer.swap_weights()
  assert_same_bits([moving_mean.numpy()], [before])


def test_fixed_decay_and_start_step():
  model, optimizer = built(average_decay=0.5, dynamic_decay=False, start_step=2)
  for n in range(2):
    train_step(model, optimizer, n)
    for a, v in zip(averages(model, optimizer), values(model.variables), strict=True):
      np.testing.assert_allclose(a, v, rtol=1e-6, atol=1e-6)
  before = averages(model, optimizer)
  train_step(model, optimizer, 2)
  after = zip(averages(model, optimizer), before, values(model.variables), strict=True)
  for a, b, v in after:
    np.testing.assert_allclose(a, (b + v) / 2, rtol=1e-5, atol=1e-6)


def test_swapping_twice_restores_each_bit(strategy):
  model, optimizer = built(strategy)
  run(strategy, model, optimizer, range(3))
  weights, shadows = values(model.variables), averages(model, optimizer)
  assert not optimizer.is_swapped
  with strategy.scope():
    optimizer.swap_weights()
  assert optimizer.is_swapped
  assert_same_bits(values(model.variables), shadows)
  assert_same_bits(averages(model, optimizer), weights)
  optimizer.swap_weights()
  assert not optimizer.is_swapped
  assert_same_bits(values(model.variables), weights)
  assert_same_bits(averages(model, optimizer), shadows)


def test_swapping_does_not_spread_infinities_and_nans():
  model, optimizer = built()
  train_step(model, optimizer, 0)
  kernel = model.layers[0].kernel
  kernel.assign(tf.tensor_scatter_nd_update(kernel, [[0, 0], [1, 1]], [np.nan, np.inf]))
  weights, shadows = values(model.variables), averages(model, optimizer)
  optimizer.swap_weights()
  assert all(np.isfinite(v).all() for v in values(model.variables))
  optimizer.swap_weights()
  assert_same_bits(values(model.variables), weights)
  assert_same_bits(averages(model, optimizer), shadows)


def test_evaluating_in_between_does_not_change_training():
  model, optimizer = built()
  for n in range(6):
    train_step(model, optimizer, n)
  straight = values(model.variables) + averages(model, optimizer)
  model, optimizer = built()
  for n in range(6):
    train_step(model, optimizer, n)
    optimizer.swap_weights()
    optimizer.swap_weights()
  assert_same_bits(values(model.variables) + averages(model, optimizer), straight)


def test_a_restored_run_continues_bit_by_bit(tmp_path, strategy):
  model, optimizer = built(strategy)
  run(strategy, model, optimizer, range(8))
  straight = values(model.variables) + averages(model, optimizer)

  model, optimizer = built(strategy)
  run(strategy, model, optimizer, range(4))
  checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
  path = checkpoint.save(tmp_path / "ckpt")

  model, optimizer = built(strategy)
  run(strategy, model, optimizer, [100])  # something to be overwritten
  status = tf.train.Checkpoint(model=model, optimizer=optimizer).restore(path)
  status.assert_existing_objects_matched()
  run(strategy, model, optimizer, range(4, 8))
  assert_same_bits(values(model.variables) + averages(model, optimizer), straight)


def test_restoring_before_the_averages_exist(tmp_path):
  model, optimizer = built()
  train_step(model, optimizer, 0)
  saved = averages(model, optimizer)
  checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
  path = checkpoint.save(tmp_path / "ckpt")

  model = small_model()
  optimizer = ExponentialMovingAverage(RMSpropTF1(0.1))
  tf.train.Checkpoint(model=model, optimizer=optimizer).restore(path)
  optimizer.shadow_copy(model)
  assert_same_bits(averages(model, optimizer), saved)


def test_a_checkpoint_says_that_it_was_written_while_swapped(tmp_path):
  model, optimizer = built()
  train_step(model, optimizer, 0)
  weights = values(model.variables)
  checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
  action = actions.EMACheckpointing(str(tmp_path), optimizer, checkpoint)
  action(None)
  assert not optimizer.is_swapped

  model, optimizer = built()
  path = tf.train.latest_checkpoint(str(tmp_path / "ema_checkpoints"))
  tf.train.Checkpoint(model=model, optimizer=optimizer).restore(path)
  assert optimizer.is_swapped
  optimizer.swap_weights()
  assert_same_bits(values(model.variables), weights)


def test_checkpoints_of_model_gardens_class_are_read(tmp_path):
  model = small_model()
  theirs = optimization.ExponentialMovingAverage(RMSpropTF1(0.1), average_decay=0.9)
  theirs.shadow_copy(model)
  train_step(model, theirs, 0)
  expected = [theirs.get_slot(v, "average").numpy() for v in model.trainable_variables]
  path = tf.train.Checkpoint(model=model, optimizer=theirs).save(tmp_path / "ckpt")

  model, optimizer = built()
  tf.train.Checkpoint(model=model, optimizer=optimizer).restore(path)
  actual = [optimizer.get_slot(v, "average").numpy() for v in model.trainable_variables]
  assert_same_bits(actual, expected)


def test_averages_are_reset_to_weights_that_were_read_later():
  model, optimizer = built()
  for variable in model.variables:
    variable.assign(variable + 1)
  optimizer.reset_shadow_variables()
  assert_same_bits(averages(model, optimizer), values(model.variables))


def test_resetting_before_the_copy_leaves_the_start_to_it():
  model = small_model()
  optimizer = ExponentialMovingAverage(RMSpropTF1(0.1))
  optimizer.reset_shadow_variables()
  optimizer.shadow_copy(model)
  assert_same_bits(averages(model, optimizer), values(model.variables))


def test_integers_are_left_alone():
  model = small_model()
  model.calls = tf.Variable(3, trainable=False, dtype=tf.int64)
  assert any(v is model.calls for v in model.variables)
  optimizer = ExponentialMovingAverage(RMSpropTF1(0.1))
  optimizer.shadow_copy(model)
  optimizer.swap_weights()
  assert model.calls.numpy() == 3


def test_variables_are_all_that_ranks_must_share():
  model, optimizer = built()
  train_step(model, optimizer, 0)
  listed = {id(v) for v in optimizer.variables()}
  for variable in model.trainable_variables:
    assert id(optimizer.get_slot(variable, "average")) in listed
    assert id(optimizer.base_optimizer.get_slot(variable, "rms")) in listed
    assert id(optimizer.base_optimizer.get_slot(variable, "momentum")) in listed
  assert id(optimizer.iterations) in listed


def test_config_round_trip():
  optimizer = ExponentialMovingAverage(
    RMSpropTF1(0.25), average_decay=0.5, trainable_weights_only=True, start_step=3
  )
  config = keras.optimizers.serialize(optimizer)
  restored = keras.optimizers.deserialize(config, use_legacy_optimizer=True)
  assert isinstance(restored, ExponentialMovingAverage)
  assert restored.get_config() == optimizer.get_config()


def test_wrapping_follows_the_configuration():
  optimizer = RMSpropTF1(0.1)
  assert wrap_with_moving_average(optimizer, None) is optimizer
  wrapped = wrap_with_moving_average(
    optimizer, EMAConfig(average_decay=0.75, trainable_weights_only=False)
  )
  assert isinstance(wrapped, optimization.ExponentialMovingAverage)
  config = wrapped.get_config()
  assert config["average_decay"] == 0.75
  assert config["trainable_weights_only"] is False


def test_mistakes_are_named():
  with pytest.raises(UserError, match=r"optimizer_config\.ema\.clipnorm has no effect"):
    wrap_with_moving_average(RMSpropTF1(0.1), EMAConfig(clipnorm=1.0))
  with pytest.raises(UserError, match=r"average_decay is 1\.0"):
    ExponentialMovingAverage(RMSpropTF1(0.1), average_decay=1.0)
  with pytest.raises(UserError, match=r"keras\.optimizers\.legacy"):
    ExponentialMovingAverage(keras.optimizers.experimental.SGD(0.1))
  with pytest.raises(UserError, match="call shadow_copy"):
    ExponentialMovingAverage(RMSpropTF1(0.1)).swap_weights()
  weightless = keras.Sequential(
    [keras.layers.ReLU(input_shape=(3,))], name="weightless"
  )
  with pytest.raises(UserError, match="'weightless' has no weights"):
    ExponentialMovingAverage(RMSpropTF1(0.1)).shadow_copy(weightless)


def test_a_replica_cannot_swap():
  strategy = STRATEGIES["one_device"]()
  _, optimizer = built(strategy)
  with pytest.raises(UserError, match="outside of run"):
    strategy.run(optimizer.swap_weights)
