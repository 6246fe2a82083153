"""The network of an export: without batch norms, the numbers of the one trained."""

import helpers_random_weights
import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory
from official.vision.modeling import backbones, classification_model

import mnv2_hpu
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import image_classification as exp_cfg
from mnv2_hpu.serving import folded_network

mnv2_hpu.register()


def _network(experiment, output_stride=None):
  config = (
    exp_factory.get_exp_config(experiment).task
    if experiment
    else exp_cfg.ImageClassificationTask()
  )
  config.model.num_classes = 11
  config.model.input_size = [64, 64, 3]
  config.model.backbone.mobilenet_v2.width_multiplier = 0.35
  if output_stride:
    config.model.backbone.mobilenet_v2.output_stride = output_stride
  return helpers_random_weights.with_random_weights(
    task_factory.get_task(config).build_model()
  )


@pytest.mark.parametrize(
  ("experiment", "output_stride"),
  [
    ("", 32),
    ("", 16),
    ("mobilenet_v2_ssdlite", None),
    ("mobilenet_v2_deeplabv3plus", None),
  ],
)
def test_whole_network_without_batch_norms_gives_the_same_outputs(
  experiment, output_stride
):
  model = _network(experiment, output_stride)
  before = model.get_weights()
  folded = folded_network.FoldedNetwork(model)
  images = tf.random.uniform([8, 64, 64, 3], -1, 1)
  expected = model(images, training=False)
  outputs = tf.function(folded)(images)
  tf.nest.assert_same_structure(outputs, expected)
  for ours, theirs in zip(
    tf.nest.flatten(outputs), tf.nest.flatten(expected), strict=True
  ):
    theirs = theirs.numpy()
    # The images differ.
    assert np.ptp(theirs, axis=0).max() > 0.01 * np.ptp(theirs)
    assert np.abs(ours - theirs).max() <= 2e-4 * np.abs(theirs).max()
  for ours, theirs in zip(before, model.get_weights(), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_its_variables_are_what_it_reads():
  model = _network("mobilenet_v2_deeplabv3plus")
  folded = folded_network.FoldedNetwork(model)
  function = tf.function(folded).get_concrete_function(
    tf.TensorSpec([None, 64, 64, 3], tf.float32)
  )
  read = {variable.ref() for variable in function.graph.variables}
  assert read == {variable.ref() for variable in folded.variables}
  # A bias instead of gamma, beta, mean and variance.
  norms = sum("moving_mean" in variable.name for variable in model.variables)
  assert len(folded.variables) == len(model.variables) - 3 * norms


def test_blocks_that_are_no_graph_of_layers_stay_as_they_are():
  specs = keras.layers.InputSpec(shape=[None, 32, 32, 3])
  # Its blocks are layers of layers, with a `call`.
  backbone = backbones.ResNet(18, input_specs=specs)
  model = classification_model.ClassificationModel(backbone, 3, specs)
  images = tf.random.uniform([2, 32, 32, 3], -1, 1)
  logits = folded_network.FoldedNetwork(model)(images)
  np.testing.assert_allclose(logits, model(images, training=False), rtol=1e-4)
