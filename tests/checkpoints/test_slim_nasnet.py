"""slim's NASNet checkpoints: by its names, EMA or raw, with auxiliary head or not."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.checkpoints import load_pretrained, load_slim_checkpoint
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import classifier
from mnv2_hpu.modeling.nasnet import NASNet

EMA = "/ExponentialMovingAverage"
LEAVES = {
  "kernel": "weights",
  "bias": "biases",
  "depthwise_kernel": "depthwise_weights",
  "pointwise_kernel": "pointwise_weights",
}


@functools.cache
def network(has_auxiliary_logits):
  images = keras.layers.InputSpec(shape=[None, 32, 32, 3])
  hparams = {"num_cells": 3, "num_conv_filters": 4}
  backbone = NASNet("nasnet_cifar", images, hparams)
  return classifier.build_classifier(
    backbone, 5, images, 0.0, None, has_auxiliary_logits
  )


def slims_variables(has_auxiliary_logits):
  """Random arrays by slim's names, as its training writes them, and the step."""
  rng = np.random.default_rng(0)
  arrays = {}
  for variable in network(has_auxiliary_logits).variables:
    scope, leaf = variable.name.removesuffix(":0").rsplit("/", 1)
    if scope.startswith("dense"):
      scope = "final_layer/FC"
    name = f"{scope}/{LEAVES.get(leaf, leaf)}"
    for copy in (name, f"{name}{EMA}"):
      arrays[copy] = rng.uniform(0.5, 1, variable.shape).astype(np.float32)
    if not leaf.startswith("moving"):
      arrays[f"{name}/RMSProp"] = np.ones(variable.shape, np.float32)
  return arrays | {"global_step": np.int64(77)}


def write(folder, arrays):
  """Writes arrays by name as TensorFlow 1's Saver does; returns the prefix."""
  prefix = str(folder / "model.ckpt-77")
  tf.raw_ops.SaveV2(
    prefix=prefix,
    tensor_names=list(arrays),
    shape_and_slices=[""] * len(arrays),
    tensors=list(arrays.values()),
  )
  return prefix


@pytest.fixture
def checkpoint(tmp_path, request):
  arrays = slims_variables(request.param)
  return write(tmp_path, arrays), arrays


def value_of(model, name):
  layer = model.backbone.get_layer(name.rpartition("/")[0])
  return {
    LEAVES.get(leaf := w.name.split("/")[-1][:-2], leaf): w for w in layer.weights
  }[name.rpartition("/")[2]]


@pytest.mark.parametrize("checkpoint", [True, False], indirect=True)
@pytest.mark.parametrize("has_auxiliary_logits", [True, False])
def test_every_variable_is_the_one_of_its_name(checkpoint, has_auxiliary_logits):
  prefix, arrays = checkpoint
  model = network(has_auxiliary_logits)
  for variable in model.variables:
    variable.assign(tf.zeros_like(variable))
  for weights, suffix in (("raw", ""), ("ema", EMA)):
    read = load_slim_checkpoint(model, prefix, weights=weights)
    assert read.global_step == 77
    for name in (
      "l1_stem_3x3/weights",
      "cell_0/comb_iter_0/left/separable_5x5_1/pointwise_weights",
      "cell_0/cell_output/reduction_1/path_bn/moving_variance",
      "reduction_cell_1/beginning_bn/gamma",
    ):
      np.testing.assert_array_equal(value_of(model, name), arrays[f"{name}{suffix}"])
  is_stored = any(name.startswith("aux_1/") for name in arrays)
  stays = {v.name for v in model.variables if not v.numpy().any()}
  auxiliary = {v.name for v in model.variables if v.name.startswith("aux_1/")}
  assert stays == (set() if is_stored else auxiliary)


@pytest.mark.parametrize("checkpoint", [True], indirect=True)
def test_the_backbone_alone_is_read_without_any_classifier(checkpoint):
  model = network(False)
  head = model.layers[-1].kernel.numpy()
  load_slim_checkpoint(model, checkpoint[0], logits=False)
  np.testing.assert_array_equal(model.layers[-1].kernel, head)
  load_slim_checkpoint(model.backbone, checkpoint[0])


def test_another_network_is_refused(tmp_path):
  arrays = slims_variables(False)
  name = f"l1_stem_3x3/weights{EMA}"
  arrays[name] = np.zeros([3, 3, 3, 9], np.float32)
  with pytest.raises(UserError, match=r"1 of another shape: .* Use the model_id"):
    load_slim_checkpoint(network(False), write(tmp_path, arrays))


@pytest.mark.parametrize("checkpoint", [False], indirect=True)
def test_the_import_of_mobilenet_v2_says_what_reads_it(checkpoint):
  with pytest.raises(
    UserError, match=r"slim's NASNet or PNASNet.*load_slim_checkpoint"
  ):
    load_pretrained(checkpoint[0])
