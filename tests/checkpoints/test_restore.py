import os

import numpy as np
import pytest
import tensorflow as tf
from official.modeling import optimization

from mnv2_hpu.checkpoints import restore
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.optimization.exponential_moving_average import ExponentialMovingAverage


def network(classes=3, filters=4):
  image = keras.Input([8, 8, 3])
  x = keras.layers.Conv2D(filters, 3, use_bias=False)(image)
  x = keras.layers.BatchNormalization(momentum=0.5)(x)
  x = keras.layers.GlobalAveragePooling2D()(x)
  return keras.Model(image, keras.layers.Dense(classes)(x))


STRATEGY = tf.distribute.OneDeviceStrategy("cpu:0")  # the stock EMA needs one


def train_step(model, optimizer):
  images = tf.random.stateless_normal([16, 8, 8, 3], seed=[1, 2])
  with tf.GradientTape() as tape:
    loss = tf.reduce_mean(model(images, training=True)[:, 0])
  gradients = tape.gradient(loss, model.trainable_variables)
  optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


class Run:
  """A run of three steps, its checkpoint and the weights it should give back."""

  def __init__(self, folder, ema_class=ExponentialMovingAverage, **ema):
    with STRATEGY.scope():
      self.run(folder, ema_class, ema)

  def run(self, folder, ema_class, ema):
    self.model = network()
    inner = keras.optimizers.legacy.RMSprop(0.05, momentum=0.9)
    self.optimizer = inner
    if ema_class:
      self.optimizer = ema_class(inner, average_decay=0.9, **ema)
      self.optimizer.shadow_copy(self.model)
    for _ in range(3):
      STRATEGY.run(train_step, args=(self.model, self.optimizer))
    self.raw = self.model.get_weights()
    self.checkpoint = tf.train.Checkpoint(
      model=self.model,
      optimizer=self.optimizer,
      global_step=tf.Variable(3, dtype=tf.int64),
    )
    self.path = self.checkpoint.write(os.path.join(folder, "ckpt-3"))
    if ema_class:
      self.optimizer.swap_weights()
      self.ema = self.model.get_weights()


def assert_weights(model, expected):
  for variable, value in zip(model.get_weights(), expected, strict=True):
    np.testing.assert_array_equal(variable, value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return Run(tmp_path_factory.mktemp("run"))


def test_ema_and_raw_weights_are_those_of_the_run(run):
  model = network()
  restored = restore.restore_weights(model, run.path, "ema")
  assert restored == restore.RestoredCheckpoint(run.path, 3, "ema")
  assert_weights(model, run.ema)
  restore.restore_weights(model, run.path, "raw")
  assert_weights(model, run.raw)
  pairs = zip(run.raw, run.ema, strict=True)
  # Of all variables, batch statistics included, but the bias: its gradient is constant.
  assert sum(not np.array_equal(raw, ema) for raw, ema in pairs) >= 6


@pytest.mark.parametrize("weights", restore.WEIGHTS)
def test_checkpoint_written_while_swapped_gives_the_same(run, tmp_path, weights):
  path = run.checkpoint.write(str(tmp_path / "any_name"))  # the fixture left it swapped
  model = network()
  restore.restore_weights(model, path, weights)
  assert_weights(model, run.ema if weights == "ema" else run.raw)


@pytest.mark.parametrize("weights", restore.WEIGHTS)
def test_best_checkpoint_of_the_stock_optimizer_is_known_by_its_name(tmp_path, weights):
  run = Run(tmp_path, ema_class=optimization.ExponentialMovingAverage)
  path = run.checkpoint.write(str(tmp_path / "best_ckpt-1"))
  model = network()
  restore.restore_weights(model, path, weights)
  expected = run.ema if weights == "ema" else run.raw
  for variable, value in zip(model.get_weights(), expected, strict=True):
    np.testing.assert_allclose(variable, value, atol=1e-6)  # rounded by its swap


def test_statistics_without_ema_are_read_as_they_are(tmp_path):
  run = Run(tmp_path, trainable_weights_only=True)
  model = network()
  restore.restore_weights(model, run.path, "ema")
  assert_weights(model, run.ema)


def test_run_without_ema_must_be_asked_for_raw_weights(tmp_path):
  run = Run(tmp_path, ema_class=None)
  model = network()
  with pytest.raises(UserError, match="--weights=raw"):
    restore.restore_weights(model, run.path, "ema")
  restore.restore_weights(model, run.path, "raw")
  assert_weights(model, run.raw)


@pytest.mark.parametrize(
  ("other", "message"),
  [
    ({"classes": 5}, r"dense.*is \[4, 5\] in the model, \[4, 3\] in the checkpoint"),
    ({"filters": 8}, r"6 variables do not fit"),
  ],
)
def test_other_shapes_are_refused_and_nothing_is_set(run, other, message):
  model = network(**other)
  before = model.get_weights()
  with pytest.raises(UserError, match=message):
    restore.restore_weights(model, run.path)
  assert_weights(model, before)


def test_model_with_more_layers_is_refused_by_name(run):
  smaller = network()
  more = keras.layers.Dense(2, name="surplus")(smaller.output)
  with pytest.raises(UserError, match=r"2 of 9 variables .* surplus/kernel"):
    restore.restore_weights(keras.Model(smaller.input, more), run.path)


def test_checkpoint_of_something_else_is_refused(tmp_path):
  path = tf.train.Checkpoint(net=network()).write(str(tmp_path / "other"))
  with pytest.raises(UserError, match="no 'model'"):
    restore.restore_weights(network(), path)


def test_name_based_checkpoint_is_refused(tmp_path):
  path = str(tmp_path / "v1.ckpt")
  tf.raw_ops.SaveV2(
    prefix=path, tensor_names=["w"], shape_and_slices=[""], tensors=[tf.zeros([2])]
  )
  with pytest.raises(UserError, match="not written by TensorFlow 2"):
    restore.restore_weights(network(), path)


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("corruption", ["flipped", "truncated", "removed"])
def test_corrupt_checkpoint_is_reported_and_nothing_is_set(
  tmp_path, suffix, corruption
):
  run = Run(tmp_path)
  path = f"{run.path}{suffix}"
  with open(path, "rb") as file:
    content = bytearray(file.read())
  if corruption == "removed":
    os.remove(path)
  else:
    # In the middle of the file: a value, or an entry of the index.
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(255 - b for b in content[middle:][:200])
    with open(path, "wb") as file:
      file.write(content[:middle] if corruption == "truncated" else content)
  model = network()
  before = model.get_weights()
  with pytest.raises(UserError, match="ckpt-3"):
    restore.restore_weights(model, run.path)
  assert_weights(model, before)


def test_unknown_weights_name_the_allowed_ones(run):
  with pytest.raises(UserError, match="ema and raw"):
    restore.restore_weights(network(), run.path, "averaged")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused_and_nothing_is_set(tmp_path, value):
  broken = Run(tmp_path, ema_class=None)
  kernel = broken.model.trainable_variables[0]
  kernel.assign(tf.fill(kernel.shape, value))
  path = broken.checkpoint.write(str(tmp_path / "broken"))
  model = network()
  before = model.get_weights()
  with pytest.raises(UserError, match=r"broken' holds values that are NaN.*kernel"):
    restore.restore_weights(model, path, "raw")
  for ours, theirs in zip(before, model.get_weights(), strict=True):
    np.testing.assert_array_equal(ours, theirs)
