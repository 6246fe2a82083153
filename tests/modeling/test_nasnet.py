"""The structure of NASNet and PNASNet: the backbone contract, counts, names, heads."""

import functools
import json
import math

import backbone_contract
import golden_recipes
import numpy as np
import pytest
import tensorflow as tf
import test_nasnet_plans

from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import classifier, complexity, nasnet_cells, nasnet_plans
from mnv2_hpu.modeling.nasnet import NASNet

GOLDEN = json.loads((golden_recipes.GOLDEN / "nasnet.json").read_text())
SMALL = {"num_cells": 3, "num_conv_filters": 8}
# Trainable and all parameters, by `test_nasnet_plans.count`.
SMALL_COUNTS = {
  model_id: test_nasnet_plans.count(
    nasnet_plans.make_plan(nasnet_plans.hparams(None, model_id, **SMALL))
  )
  for model_id in ("nasnet_mobile", "pnasnet_mobile")
}
SIZES = ((64, 64), (63, 35), (4, 8))  # remainders 0 and 3 by 4: the stem pads nothing


@functools.cache
def small(model_id):
  return build_small(model_id)


def build_small(model_id, **arguments):
  return NASNet(model_id, hparams=SMALL, **arguments)


@pytest.mark.slow
def test_contract():
  """Of PNASNet, whose cells are fewer."""
  channels = {"2": 10, "3": 40, "4": 80, "5": 160, "6": 160}
  build = functools.partial(build_small, "pnasnet_mobile")
  counts = SMALL_COUNTS["pnasnet_mobile"]
  backbone_contract.check_backbone(build, *counts, channels, sizes=SIZES)


@pytest.mark.slow
def test_contract_of_nasnet():
  backbone = small("nasnet_mobile")
  channels = {"2": 8, "3": 48, "4": 96, "5": 192, "6": 192}
  backbone_contract.check_parameters(backbone, *SMALL_COUNTS["nasnet_mobile"])
  backbone_contract.check_shapes(backbone, channels, SIZES)
  backbone_contract.check_gradients(backbone)


@pytest.mark.slow
def test_contract_with_the_cifar_stem():
  backbone = small("nasnet_cifar")
  channels = {"0": 48, "1": 96, "2": 192, "3": 192}
  backbone_contract.check_shapes(backbone, channels, ((8, 8), (7, 5), (1, 2)))
  backbone_contract.check_freezing(backbone)  # drop path included


def numbers(variables):
  return len(variables), sum(math.prod(v.shape) for v in variables)


@pytest.mark.slow
def test_a_whole_network_has_slims_counts_losses_and_the_papers_cost():
  golden = GOLDEN["pnasnet_mobile"]
  images = keras.layers.InputSpec(shape=[None, 224, 224, 3])
  regularizer = keras.regularizers.l2(1e-5)
  backbone = NASNet("pnasnet_mobile", images, kernel_regularizer=regularizer)
  model = classifier.build_classifier(backbone, 1001, images, 0.5, regularizer, True)
  without = [v for v in model.variables if not v.name.startswith("aux_5/")]
  for mode, variables in (("inference", without), ("training", model.variables)):
    slims = golden[mode]
    assert numbers(variables) == (slims["model_variables"], slims["model_params"])
    trainable = [v for v in variables if v.trainable]
    assert numbers(trainable) == (
      slims["trainable_variables"],
      slims["trainable_params"],
    )
  assert len(model.losses) == golden["training"]["regularization_losses"]
  inference = keras.Model(model.input, model.output[classifier.LOGITS])
  # Paper 1712.00559: 588 million.
  assert complexity.multiply_adds(inference) / 1e6 == pytest.approx(588, rel=0.01)


@pytest.mark.parametrize(
  ("shape", "stddev"),
  [
    ((3, 3, 16, 32), math.sqrt(2.6 / (9 * 32))),
    ((7, 7, 400, 1), math.sqrt(2.6 / 49)),  # a depthwise kernel
    ((1000, 100), math.sqrt(2.6 / 100)),
  ],
)
def test_initializer_is_slims(shape, stddev):
  drawn = nasnet_cells.FanOutNormal()(shape).numpy()
  assert np.abs(drawn).max() == pytest.approx(2 * stddev, rel=0.02)
  assert np.abs(drawn).max() <= 2 * stddev
  assert drawn.std() == pytest.approx(0.8796 * stddev, rel=0.03)


def test_padding_of_pools_is_the_same_at_a_free_size():
  pad = nasnet_cells.PoolPadding()
  for height, width in ((5, 8), (4, 7)):
    images = tf.random.stateless_uniform([2, height, width, 3], (0, 1))
    free = tf.function(pad, input_signature=[tf.TensorSpec([None, None, None, 3])])
    np.testing.assert_array_equal(free(images), pad(images))
    pooled = tf.nn.max_pool2d(pad(images), 3, 2, "VALID")
    np.testing.assert_array_equal(pooled, tf.nn.max_pool2d(images, 3, 2, "SAME"))


@pytest.mark.parametrize("size", [4, None])
def test_an_auxiliary_head_needs_large_and_fixed_features(size):
  endpoints = {"4": keras.Input([size, size, 80])}
  with pytest.raises(UserError, match=r"features of a fixed size from 5 x 5"):
    small("pnasnet_mobile").auxiliary_logits(endpoints, num_classes=3)
