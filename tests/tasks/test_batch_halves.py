"""Halves of a batch: the numbers of the whole, in the order of its images."""

import helpers_random_weights
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.compat import keras
from mnv2_hpu.tasks import batch_halves


@pytest.fixture(scope="module")
def network():
  inputs = keras.Input([16, 16, 3])
  x = keras.layers.Conv2D(4, 3, strides=2)(inputs)
  outputs = {"features": x, "logits": [keras.layers.Dense(3)(x)]}
  return helpers_random_weights.with_random_weights(keras.Model(inputs, outputs))


def _images(count):
  return tf.constant(
    np.random.default_rng(0).uniform(-1, 1, [count, 16, 16, 3]), tf.float32
  )


@pytest.mark.parametrize(("batch", "halves"), [(32, 2), (16, 2), (17, 0), (8, 0)])
def test_outputs_are_those_of_the_batch(network, batch, halves):
  images = _images(batch)
  step = tf.function(lambda images: batch_halves.infer(images, network))
  tf.nest.map_structure(
    lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-6),
    step(images),
    network(images, training=False),
  )
  operations = step.get_concrete_function(images).graph.get_operations()
  calls = [op for op in operations if "PartitionedCall" in op.type]
  assert len(calls) == halves


def test_a_batch_of_any_size_is_whole(network):
  step = tf.function(
    lambda images: batch_halves.infer(images, network),
    input_signature=[tf.TensorSpec([None, 16, 16, 3], tf.float32)],
  )
  for count in (1, 3, 64):
    assert step(_images(count))["features"].shape[0] == count


def test_eager_calls_trace_nothing(network):
  outputs = batch_halves.infer(_images(32), network)
  np.testing.assert_array_equal(
    outputs["features"], network(_images(32), training=False)["features"]
  )


def test_outputs_of_no_single_image_are_those_of_the_batch():
  inputs = keras.Input([16, 16, 3])
  mean = keras.layers.Lambda(tf.reduce_mean)(inputs)
  model = keras.Model(inputs, [inputs, mean])
  step = tf.function(lambda images: batch_halves.infer(images, model))
  images = _images(32)
  np.testing.assert_allclose(step(images)[1], tf.reduce_mean(images), atol=1e-6)


def test_a_loss_of_features_is_that_of_the_batch():
  inputs = keras.Input([16, 16, 3])
  regularized = keras.layers.Dense(3, activity_regularizer="l2")
  model = keras.Model(inputs, regularized(inputs))

  @tf.function
  def step(images):
    batch_halves.infer(images, model)
    return model.losses

  features = model(_images(32), training=False)
  loss = 0.01 * tf.reduce_sum(features**2) / 32
  np.testing.assert_allclose(step(_images(32)), [loss], rtol=1e-5)
