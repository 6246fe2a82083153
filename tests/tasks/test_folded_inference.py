"""Inference whose batch norms are folded: the numbers of the network as it is."""

from typing import Any

import helpers_random_weights
import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory

import mnv2_hpu
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import image_classification
from mnv2_hpu.tasks import folded_inference

mnv2_hpu.register()
_SIZE = 64
_layers = keras.layers
_ROUNDING = 2e-4  # float32 differs from float64 by a third of this in both forms


def _task(experiment, **model):
  if experiment == "classification":
    config: Any = image_classification.ImageClassificationTask()
  else:
    config = exp_factory.get_exp_config(experiment).task
  small = {
    "num_classes": 5,
    "input_size": [_SIZE, _SIZE, 3],
    "backbone": {"mobilenet_v2": {"width_multiplier": 0.35}},
  }
  config.override({"model": small | model})
  return task_factory.get_task(config)


def _network(task):
  return helpers_random_weights.with_random_weights(task.build_model())


def _images():
  return tf.constant(
    np.random.default_rng(0).uniform(-1, 1, [2, _SIZE, _SIZE, 3]), tf.float32
  )


def _assert_close(actual, expected, tolerance):
  tf.nest.assert_same_structure(actual, expected)
  for ours, theirs in zip(
    tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True
  ):
    ours, theirs = (tf.cast(x, tf.float32).numpy() for x in (ours, theirs))
    assert np.ptp(theirs) > 0
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize(
  ("experiment", "model"),
  [
    ("classification", {}),
    ("mobilenet_v2_ssdlite", {}),
    ("mobilenet_v2_deeplabv3", {}),  # with dilated convolutions
    ("mobilenet_v2_deeplabv3plus", {}),  # whose head has its batch norms too
    ("mobilenet_v2_deeplabv3", {"aspp": "ordinary"}),
  ],
)
def test_an_evaluation_computes_the_same_without_a_batch_norm(experiment, model):
  task = _task(experiment, **model)
  network = _network(task)
  expected = network(_images(), training=False)

  step = tf.function(lambda images: task.inference_step(images, network))
  _assert_close(step(_images()), expected, _ROUNDING)
  graph = step.get_concrete_function(_images()).graph
  assert not [op for op in graph.get_operations() if "FusedBatchNorm" in op.type]

  # Nothing of it remains, and the next weights are read by the same graph.
  _assert_close(network(_images(), training=False), expected, 0)
  for variable in network.variables:
    variable.assign(variable * 1.1)
  _assert_close(step(_images()), network(_images(), training=False), _ROUNDING)


def test_networks_with_other_orders_of_layers_compute_the_same():
  task = _task("classification", backbone={"type": "nasnet"})
  network = _network(task)
  expected = network(_images(), training=False)
  _assert_close(task.inference_step(_images(), network), expected, _ROUNDING)


def test_half_precision_rounds_the_folded_kernels_once():
  images = _images()
  exact = _network(_task("classification"))
  expected = exact(images, training=False)
  keras.mixed_precision.set_global_policy("mixed_bfloat16")
  try:
    task = _task("classification")
    network = task.build_model()
    network.set_weights(exact.get_weights())
    plain, folded = (
      network(images, training=False),
      task.inference_step(images, network),
    )
  finally:
    keras.mixed_precision.set_global_policy("float32")
  errors = [np.abs(logits - expected).mean() for logits in (plain, folded)]
  assert 0 < errors[1] < 1.2 * errors[0]


def test_a_quantized_network_stays_as_it_is():
  from mnv2_hpu.quantization import network as quantization

  task = _task("classification")
  network = _network(task)
  quantization.quantize(network)
  expected = network(_images(), training=False).numpy()
  np.testing.assert_array_equal(task.inference_step(_images(), network), expected)


def test_layers_are_as_before_after_an_error():
  inputs = keras.Input([8, 8, 3])
  x = keras.layers.Conv2D(4, 3, use_bias=False)(inputs)
  model = keras.Model(inputs, keras.layers.BatchNormalization()(x))
  with pytest.raises(ValueError, match="too few"):
    _fail_inside(model)
  assert not any("call" in vars(layer) for layer in model.layers)


def _fail_inside(model):
  with folded_inference.folded_batch_norms(model):
    assert all("call" in vars(layer) for layer in model.layers[1:])
    raise ValueError("too few images")


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_what_a_batch_norm_lacks_is_not_needed(scale, center):
  inputs = keras.Input([8, 8, 3])
  x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)(inputs)
  x = keras.layers.BatchNormalization(scale=scale, center=center)(x)
  model = helpers_random_weights.with_random_weights(keras.Model(inputs, x))
  images = tf.random.uniform([2, 8, 8, 3])
  expected = model(images, training=False)
  with folded_inference.folded_batch_norms(model):
    _assert_close(model(images, training=False), expected, _ROUNDING)


def test_a_convolution_that_two_layers_read_keeps_its_kernel():
  inputs = keras.Input([8, 8, 3])
  x = keras.layers.Conv2D(4, 3, use_bias=False)(inputs)
  outputs = [x, keras.layers.BatchNormalization()(x)]
  model = helpers_random_weights.with_random_weights(keras.Model(inputs, outputs))
  images = tf.random.uniform([2, 8, 8, 3])
  expected = model(images, training=False)
  with folded_inference.folded_batch_norms(model):
    _assert_close(model(images, training=False), expected, 0)


class _Standardized(_layers.Conv2D):
  def convolution_op(self, inputs, kernel):
    return super().convolution_op(inputs, kernel - tf.reduce_mean(kernel))


@pytest.mark.parametrize(
  ("convolution", "batch_norm", "call"),
  [
    (_layers.Conv2DTranspose(4, 3, use_bias=False), {}, {}),
    (_layers.SeparableConv2D(4, 3, use_bias=False), {}, {}),
    (_Standardized(4, 3, use_bias=False), {}, {}),
    (_layers.Conv2D(4, 3, use_bias=False, activation="relu"), {}, {}),
    (_layers.Conv2D(4, 3), {}, {}),
    (_layers.Conv2D(8, 3, use_bias=False), {"axis": 1}, {}),
    (_layers.Conv2D(4, 3, use_bias=False), {}, {"training": True}),
    (_layers.Conv2D(4, 3, use_bias=False), {}, {"training": False}),
    (_layers.Conv2D(4, 3, use_bias=False, groups=2), {}, {}),
    (_layers.Conv2D(4, 3, use_bias=False, dilation_rate=2), {}, {}),
  ],
)
def test_whatever_the_layers_the_numbers_stay(convolution, batch_norm, call):
  inputs = keras.Input([8, 8, 4])
  x = _layers.Masking(9.0)(inputs)  # whose mask goes on to the batch norm
  x = _layers.BatchNormalization(**batch_norm)(convolution(x), **call)
  model = helpers_random_weights.with_random_weights(keras.Model(inputs, x))
  images = tf.random.uniform([2, 8, 8, 4])
  expected = model(images, training=False)
  with folded_inference.folded_batch_norms(model):
    _assert_close(model(images, training=False), expected, 3e-5)
