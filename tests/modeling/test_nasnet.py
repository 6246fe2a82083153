"""The structure of NASNet and PNASNet: the backbone contract, counts, names, heads."""

import functools
import json
import math

import backbone_contract
import golden_recipes
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import classifier, complexity, nasnet_cells
from mnv2_hpu.modeling.nasnet import NASNet

GOLDEN = json.loads((golden_recipes.GOLDEN / "nasnet.json").read_text())
SMALL = {"num_cells": 3, "num_conv_filters": 8}
SIZES = ((64, 64), (63, 35), (4, 8))  # of remainder 0 or 3 by 4: the stem pads nothing


def small(model_id, **arguments):
  return NASNet(model_id, hparams=SMALL, **arguments)


@pytest.mark.parametrize(
  ("model_id", "parameters", "channels"),
  [
    (
      "nasnet_mobile",
      (93_824, 96_352),
      {"2": 8, "3": 48, "4": 96, "5": 192, "6": 192},
    ),
    ("pnasnet_mobile", (0, 0), {"2": 10, "3": 40, "4": 80, "5": 160, "6": 160}),
  ],
)
@pytest.mark.slow
def test_contract(model_id, parameters, channels):
  build = functools.partial(small, model_id)
  backbone_contract.check_backbone(build, *parameters, channels, sizes=SIZES)


@pytest.mark.slow
def test_contract_with_the_cifar_stem():
  build = functools.partial(small, "nasnet_cifar")
  channels = {"0": 48, "1": 96, "2": 192, "3": 192}
  backbone_contract.check_shapes(build(), channels, ((8, 8), (7, 5), (1, 2)))
  backbone_contract.check_output_specs(build, channels)
  backbone_contract.check_freezing(build())  # drop path included


@functools.cache
def whole(model_id):
  """A network at its published size, with its auxiliary head: slim's for training."""
  size, classes = (GOLDEN[model_id][key] for key in ("image_size", "num_classes"))
  images = keras.layers.InputSpec(shape=[None, size, size, 3])
  backbone = NASNet(
    model_id,
    images,
    kernel_initializer="zeros",  # quicker than to draw 90 million numbers
    kernel_regularizer=keras.regularizers.l2(1e-5),
  )
  return classifier.build_classifier(
    backbone, classes, images, 0.0, keras.regularizers.l2(1e-5), True
  )


def count(variables):
  return len(variables), sum(math.prod(v.shape) for v in variables)


@pytest.mark.parametrize("model_id", GOLDEN)
@pytest.mark.fidelity
@pytest.mark.slow
def test_parameter_counts_are_slims(model_id, fidelity):
  model, golden = whole(model_id), GOLDEN[model_id]
  scope = model.backbone.slim_auxiliary
  auxiliary = [v for v in model.trainable_variables if v.name.startswith(f"{scope}/")]
  inference = [v for v in model.variables if not v.name.startswith(f"{scope}/")]
  fidelity(
    f"{model_id}, parameters with statistics, without and with auxiliary head",
    f"{golden['inference']['model_params']:,}, {golden['training']['model_params']:,}",
    f"{count(inference)[1]:,}, {count(model.variables)[1]:,}",
    count(model.variables)[1] - golden["training"]["model_params"],
    "0",
  )
  assert count(auxiliary)[1] == golden["aux_params"]
  for mode, variables in (("inference", inference), ("training", model.variables)):
    numbers = golden[mode]
    assert count(variables) == (numbers["model_variables"], numbers["model_params"])
    trainable = [v for v in variables if v.trainable]
    assert count(trainable) == (
      numbers["trainable_variables"],
      numbers["trainable_params"],
    )
  assert len(model.losses) == golden["training"]["regularization_losses"]


@pytest.mark.parametrize(
  ("model_id", "millions"),
  [("nasnet_mobile", 564), ("pnasnet_mobile", 588)],  # paper 1712.00559, table 5
)
@pytest.mark.slow
def test_multiply_adds_are_the_papers(model_id, millions):
  model = whole(model_id)
  inference = keras.Model(model.input, model.output[classifier.LOGITS])
  found = complexity.multiply_adds(inference)
  assert found / 1e6 == pytest.approx(millions, rel=0.01)


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


@pytest.mark.slow
def test_a_free_size_computes_what_a_fixed_one_does():
  fixed = small(
    "nasnet_mobile",
    input_specs=keras.layers.InputSpec(shape=[None, 33, 46, 3]),
    zero_padded_pools=True,
  )
  free = small("nasnet_mobile", zero_padded_pools=True)
  free.set_weights(fixed.get_weights())
  images = tf.random.stateless_uniform([2, 33, 46, 3], (0, 1), -1, 1)
  for key, features in fixed(images).items():
    np.testing.assert_allclose(free(images)[key], features, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [64, None])
def test_an_auxiliary_head_needs_large_and_fixed_features(size):
  images = keras.layers.InputSpec(shape=[None, size, size, 3])
  backbone = small("pnasnet_mobile", input_specs=images)
  with pytest.raises(UserError, match=r"features of a fixed size from 5 x 5"):
    classifier.build_classifier(backbone, 3, images, 0.0, None, True)
