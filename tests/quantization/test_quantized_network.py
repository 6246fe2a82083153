"""A network that rounds as int8: its numbers, its weights, its ranges, its freezing."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from official.core import task_factory

import mnv2_hpu
from mnv2_hpu.checkpoints import restore
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import stateless_dropout
from mnv2_hpu.quantization import fake_quantization, network

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_network")]

FREEZE_STEP = 3


def _build(is_quantized, seed=0):
  mnv2_hpu.register()
  from mnv2_hpu.configs import image_classification, quantization

  config = (
    quantization.ImageClassificationQATTask(freeze_batch_norm_step=FREEZE_STEP)
    if is_quantized
    else image_classification.ImageClassificationTask()
  )
  config.model.num_classes = 4
  config.model.input_size = [32, 32, 3]
  config.train_data.seed = seed
  task = task_factory.get_task(config)
  return task, task.build_model()


@pytest.fixture
def images():
  return tf.constant(
    np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)), tf.float32
  )


def test_a_float_checkpoint_is_read_weight_by_weight(tmp_path):
  _, trained = _build(is_quantized=False, seed=1)
  path = tf.train.Checkpoint(model=trained, backbone=trained.backbone).save(
    str(tmp_path / "ckpt")
  )
  task, model = _build(is_quantized=True)
  task.task_config.init_checkpoint = path
  task.task_config.init_checkpoint_modules = "all"
  task.initialize(model)
  ranges = network.ranges(model)
  new = {id(variable) for variable in ranges}
  weights = [v.numpy() for v in model.variables if id(v) not in new]
  assert len(weights) == len(trained.variables)
  for one, other in zip(weights, trained.variables, strict=True):
    np.testing.assert_array_equal(one, other)
  assert [v.numpy() for v in ranges[:2]] == list(fake_quantization.INITIAL_RANGE)


def test_a_checkpoint_of_it_has_its_ranges(images, tmp_path):
  _, model = _build(is_quantized=True)
  with stateless_dropout.dropout_step(tf.constant(0)):
    model(images, training=True)
  path = tf.train.Checkpoint(model=model).save(str(tmp_path / "ckpt"))
  _, restored = _build(is_quantized=True, seed=1)
  restore.restore_weights(restored, path, "raw")
  np.testing.assert_array_equal(restored(images), model(images))


def test_each_channel_of_a_kernel_has_its_own_scale():
  """By hand: w / s rounded, s a 127th of the channel's largest."""
  scales = np.array([0.1, 1.0, 50.0], np.float32)  # as depthwise kernels have them
  kernel = np.random.default_rng(0).normal(size=(3, 3, 3)).astype(np.float32) * scales
  for axis, is_depthwise in ((2, False), (3, True)):
    wide = np.expand_dims(kernel, axis)
    rounded = fake_quantization.quantize_kernel(tf.constant(wide), is_depthwise)
    step = np.abs(kernel).max(axis=(0, 1)) / 127
    expected = np.expand_dims(np.round(kernel / step) * step, axis)
    np.testing.assert_allclose(rounded, expected, rtol=1e-4, atol=1e-6)


def test_a_channel_of_nothing_is_no_nan():
  kernel = np.zeros((1, 1, 2, 2), np.float32)
  for largest in (0.0, 1.0):
    kernel[..., 1] = largest
    rounded = fake_quantization.quantize_kernel(tf.constant(kernel))
    np.testing.assert_allclose(rounded, kernel, atol=1e-6)


def test_ranges_follow_training_alone(images):
  _, model = _build(is_quantized=True)
  low, high = (v for v in network.ranges(model) if v.name.startswith("Conv/input"))
  model(images, training=False)
  assert (low.numpy(), high.numpy()) == fake_quantization.INITIAL_RANGE
  with stateless_dropout.dropout_step(tf.constant(0)):  # the first batch sets them
    model(images, training=True)
  found = (images.numpy().min(), images.numpy().max())
  assert (low.numpy(), high.numpy()) == pytest.approx(found)
  with stateless_dropout.dropout_step(tf.constant(1)):
    model(2 * images, training=True)
  assert high.numpy() == pytest.approx(0.1 * found[1] + 0.9 * 2 * found[1])


def test_batch_norms_freeze_at_the_step(images):
  _, model = _build(is_quantized=True)
  mean = model.backbone.get_layer("Conv/BatchNorm").moving_mean
  values = [mean.numpy()]
  for step in range(FREEZE_STEP + 2):
    with stateless_dropout.dropout_step(tf.constant(step, tf.int64)):
      model(images, training=True)
    values.append(mean.numpy())
  moved = [bool((a != b).any()) for a, b in itertools.pairwise(values)]
  assert moved == [True] * FREEZE_STEP + [False] * 2


def test_gradients_reach_every_weight(images):
  _, model = _build(is_quantized=True)
  with tf.GradientTape() as tape, stateless_dropout.dropout_step(tf.constant(0)):
    loss = tf.reduce_sum(model(images, training=True) ** 2)
  gradients = tape.gradient(loss, model.trainable_variables)
  assert all(g is not None and np.isfinite(g).all() for g in gradients)


def test_a_layer_it_does_not_know_is_refused():
  inputs = keras.Input([8, 8, 3])
  model = keras.Model(inputs, keras.layers.LayerNormalization(name="norm")(inputs))
  with pytest.raises(UserError, match=r"'norm' .*is not known to quantization-aware"):
    network.quantize(model)


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"init_checkpoint": ""}, "init_checkpoint is empty: .* finished float run"),
    ({"compute_dtype": "bfloat16"}, "compute_dtype is 'bfloat16'"),
    ({"freeze_batch_norm_epochs": -3.0}, r"freeze_batch_norm_epochs is -3\.0"),
    ({"freeze_batch_norm_epochs": float("inf")}, "freeze_batch_norm_epochs is inf"),
  ],
)
def test_a_start_that_cannot_learn_is_refused(changed, message, tmp_path):
  mnv2_hpu.register()
  from mnv2_hpu.configs import quantization

  settings = {"data_dir": str(tmp_path), "init_checkpoint": str(tmp_path), **changed}
  with pytest.raises(UserError, match=message):
    quantization.ClassificationQATRecipe(**settings)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"- 1", "AttributeError"),
    (b"task: null", "TypeError"),
    (b"task: [1, 2", "ParserError"),
    (b"", "not that of a run of this task"),
    (b"runtime: {}", "KeyError: 'task'"),
    (b"\xff\x00", "not that of a run of this task"),
    (b"task: {model: {num_classes: 7}, train_data: {}, validation_data: {}}", "has 4"),
  ],
)
def test_a_start_whose_settings_do_not_serve_is_one_error(content, message, tmp_path):
  mnv2_hpu.register()
  from mnv2_hpu.configs import quantization

  (tmp_path / "params.yaml").write_bytes(content)
  recipe = quantization.ClassificationQATRecipe(
    data_dir=str(tmp_path),
    init_checkpoint=str(tmp_path),
    num_classes=4,
    num_train_examples=96,
  )
  with pytest.raises(UserError, match=message) as raised:
    quantization.experiment(recipe)
  assert "\n" not in str(raised.value)
