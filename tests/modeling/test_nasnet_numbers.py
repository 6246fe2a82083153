"""What NASNet and PNASNet compute: against slim and Keras Applications."""

import functools

import golden_recipes
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.checkpoints import load_keras_nasnet
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling.nasnet import NASNet

pytestmark = [pytest.mark.slow, pytest.mark.fidelity]

GOLDENS = {"nasnet_cifar": 32, "nasnet_mobile": 64, "pnasnet_mobile": 64}
TOLERANCE = 1e-4
SIZE = 64  # height and width of the images that Keras' network takes


@functools.cache
def build(model_id, zero_padded_pools=False):
  return NASNet(model_id, zero_padded_pools=zero_padded_pools)


@pytest.mark.parametrize("model_id", GOLDENS)
def test_names_endpoints_and_logits_are_slims(model_id, fidelity):
  size = GOLDENS[model_id]
  arrays, meta = golden_recipes.load(f"logits_{model_id}_{size}.npz")
  backbone = build(model_id)
  names = {golden_recipes.nasnet_name(v.name): v for v in backbone.variables}
  shapes = {name: "x".join(map(str, v.shape)) for name, v in names.items()}
  slims = dict(zip(arrays["variable_names"], arrays["variable_shapes"], strict=True))
  head = {name: slims.pop(f"final_layer/FC/{name}") for name in ("weights", "biases")}
  assert shapes == slims

  golden_recipes.assign_nasnet_weights(backbone.variables, meta["seed"])
  weights, biases = (
    golden_recipes.draw_nasnet_weights(
      f"final_layer/FC/{name}", tuple(map(int, shape.split("x"))), meta["seed"]
    )
    for name, shape in head.items()
  )
  values = endpoints(backbone, arrays, golden_recipes.images(79, 4, size))
  pooled = values.pop("last").mean(axis=(1, 2))
  step = 4 if model_id == "nasnet_cifar" else 1
  values = {name: value[:1, ::step, ::step] for name, value in values.items()} | {
    "global_pool": pooled,
    "logits": pooled @ weights + biases,
  }
  differences = {n: np.abs(v - arrays[n]).max() for n, v in values.items()}
  fidelity(
    f"{model_id} {size} x {size}, logits from the same weights",
    f"norm {np.linalg.norm(arrays['logits']):.6g}",
    f"norm {np.linalg.norm(values['logits']):.6g}",
    differences["logits"],
    f"{TOLERANCE:g}",
  )
  assert max(differences.values()) < TOLERANCE, differences


def endpoints(backbone, names, images):
  """Runs a backbone; returns slim's endpoints of these names, and the last features."""
  layers = {n: f"{n.lower()}/cell_output" for n in names if "Cell" in n}
  is_cifar = backbone.plan.hparams.stem == "cifar"
  layers["Stem"] = "l1_stem_bn" if is_cifar else "cell_stem_1/cell_output"
  outputs = {name: backbone.get_layer(layer).output for name, layer in layers.items()}
  outputs["last"] = backbone.output[max(backbone.output)]
  found = keras.Model(backbone.input, outputs)(images, training=False)
  return {name: value.numpy() for name, value in found.items()}


@pytest.fixture(scope="module")
def keras_nasnet():
  """Keras' network, whose numbers show a wrong name: none is as initialized."""
  model = keras.applications.NASNetMobile(
    (SIZE, SIZE, 3), include_top=False, weights=None, pooling="avg"
  )
  for layer in model.layers:
    for weight in layer.weights:
      leaf = weight.name.removesuffix(":0").rpartition("/")[2]
      name = f"{layer.name}/{leaf.replace('kernel', 'weights')}"
      weight.assign(golden_recipes.draw_nasnet_weights(name, tuple(weight.shape), 5))
  return model


def test_keras_network_is_the_one_with_zero_padded_pools(keras_nasnet, fidelity):
  """Pools see odd and even sizes: 31, 16, 8, 4."""
  images = golden_recipes.images(80, 2, SIZE)
  expected = keras_nasnet(images, training=False)
  found = {}
  for zero_padded_pools in (True, False):
    backbone = build("nasnet_mobile", zero_padded_pools=zero_padded_pools)
    load_keras_nasnet(backbone, keras_nasnet)
    features = backbone(images, training=False)["6"]
    found[zero_padded_pools] = tf.reduce_mean(features, axis=[1, 2])
  difference = np.abs(found[True] - expected).max()
  fidelity(
    f"Keras Applications' NASNetMobile, zero-padded pools, pooled features at {SIZE}",
    f"norm {np.linalg.norm(expected):.6g}",
    f"norm {np.linalg.norm(found[True]):.6g}",
    difference,
    f"{TOLERANCE:g}",
  )
  assert difference < TOLERANCE
  assert np.abs(found[False] - expected).max() > 1e-2


def test_a_file_of_keras_is_read_too(keras_nasnet, tmp_path):
  path = str(tmp_path / "nasnet_mobile.h5")
  keras_nasnet.save_weights(path)
  padded, other = (build("nasnet_mobile", zero_padded_pools=p) for p in (True, False))
  load_keras_nasnet(padded, keras_nasnet)
  load_keras_nasnet(other, path)
  for ours, expected in zip(other.weights, padded.weights, strict=True):
    np.testing.assert_array_equal(ours, expected)


def test_keras_weights_of_another_network_are_refused():
  source = keras.Sequential([keras.layers.Dense(1, name="stem_conv1")])
  source.build([None, 3])
  message = r"stem_conv1 \(\[3, 1\], not .*stem_bn1 \(missing, .*Give NASNetMobile's"
  with pytest.raises(UserError, match=message):
    load_keras_nasnet(build("nasnet_mobile"), source)
