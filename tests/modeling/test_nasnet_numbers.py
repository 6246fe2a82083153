"""What NASNet and PNASNet compute: against slim and Keras Applications."""

import functools

import golden_recipes
import numpy as np
import pytest
import tensorflow as tf
from official.vision.modeling import classification_model

from mnv2_hpu.checkpoints import load_keras_nasnet
from mnv2_hpu.compat import keras
from mnv2_hpu.modeling.nasnet import NASNet

pytestmark = [pytest.mark.slow, pytest.mark.fidelity]

GOLDENS = {"nasnet_cifar": 32, "nasnet_mobile": 64, "pnasnet_mobile": 64}
TOLERANCE = 1e-4


@functools.cache
def build(model_id):
  return NASNet(model_id)


@pytest.mark.parametrize("model_id", GOLDENS)
def test_names_endpoints_and_logits_are_slims(model_id, fidelity):
  size = GOLDENS[model_id]
  arrays, meta = golden_recipes.load(f"logits_{model_id}_{size}.npz")
  model = classification_model.ClassificationModel(build(model_id), meta["num_classes"])
  golden_recipes.assign_nasnet_weights(model.backbone.variables, meta["seed"])
  head = model.layers[-1]
  head.set_weights(
    [
      golden_recipes.draw_nasnet_weights(
        f"final_layer/FC/{leaf}", tuple(weight.shape), meta["seed"]
      )
      for leaf, weight in (("weights", head.kernel), ("biases", head.bias))
    ]
  )
  names = {golden_recipes.nasnet_name(v.name): v for v in model.backbone.variables}
  shapes = {name: "x".join(map(str, v.shape)) for name, v in names.items()}
  slims = dict(zip(arrays["variable_names"], arrays["variable_shapes"], strict=True))
  assert shapes == {n: s for n, s in slims.items() if not n.startswith("final_layer/")}

  found = endpoints(
    model, [name for name in arrays if "Cell" in name or name == "Stem"]
  )
  images = golden_recipes.images(79, 4, size)
  values = keras.Model(model.input, found)(images, training=False)
  step = 4 if model_id == "nasnet_cifar" else 1
  differences = {
    name: np.abs(value[:1, ::step, ::step] - arrays[name]).max()
    for name, value in values.items()
    if name in arrays and name != "logits"
  }
  logits = np.abs(values["logits"] - arrays["logits"]).max()
  fidelity(
    f"{model_id} {size} x {size}, logits from the same weights",
    f"norm {np.linalg.norm(arrays['logits']):.6g}",
    f"norm {np.linalg.norm(values['logits']):.6g}",
    logits,
    f"{TOLERANCE:g}",
  )
  assert logits < TOLERANCE
  assert max(differences.values()) < TOLERANCE, differences


def endpoints(model, names):
  """Tensors of a classification model by slim's names of its endpoints."""
  backbone = model.backbone
  is_cifar = backbone.plan.hparams.stem == "cifar"
  layers = {name: f"{name.lower()}/cell_output" for name in names}
  layers["Stem"] = "l1_stem_bn" if is_cifar else "cell_stem_1/cell_output"
  inner = {name: backbone.get_layer(layer).output for name, layer in layers.items()}
  outputs = keras.Model(backbone.input, inner)(model.input)
  return {**outputs, "logits": model.output}


@pytest.mark.parametrize("size", [64, 63])
def test_keras_network_is_the_one_with_zero_padded_pools(size, fidelity):
  source = keras_nasnet(size)
  backbone = keras_weights(True)
  images = golden_recipes.images(80, 2, 64)[:, :size, :size]
  expected = source(images, training=False)
  found = tf.reduce_mean(backbone(images, training=False)["6"], axis=[1, 2])
  difference = np.abs(found - expected).max()
  fidelity(
    f"Keras Applications' NASNetMobile, zero-padded pools, pooled features at {size}",
    f"norm {np.linalg.norm(expected):.6g}",
    f"norm {np.linalg.norm(found):.6g}",
    difference,
    "1e-4",
  )
  assert difference < 1e-4


def test_without_the_switch_keras_network_is_another_one():
  images = golden_recipes.images(80, 2, 64)
  padded, slims = (keras_weights(p)(images)["6"] for p in (True, False))
  assert np.abs(padded - slims).max() > 1e-2


@functools.cache
def keras_nasnet(size):
  """Keras' network with numbers that show a wrong name: none is as initialized."""
  model = keras.applications.NASNetMobile(
    (size, size, 3), include_top=False, weights=None, pooling="avg"
  )
  for layer in model.layers:
    for weight in layer.weights:
      leaf = weight.name.removesuffix(":0").rpartition("/")[2]
      slims = {"kernel": "weights", "bias": "biases"}.get(
        leaf, leaf.replace("kernel", "weights")
      )
      name = f"{layer.name}/{slims}"
      weight.assign(golden_recipes.draw_nasnet_weights(name, tuple(weight.shape), 5))
  return model


@functools.cache
def keras_weights(zero_padded_pools):
  backbone = NASNet("nasnet_mobile", zero_padded_pools=zero_padded_pools)
  load_keras_nasnet(backbone, keras_nasnet(64))
  return backbone


def test_a_file_of_keras_2_is_read_too(tmp_path):
  path = tmp_path / "nasnet_mobile.h5"
  keras_nasnet(64).save_weights(path)
  backbone = build("nasnet_mobile")
  load_keras_nasnet(backbone, str(path))
  for ours, expected in zip(backbone.weights, keras_weights(True).weights, strict=True):
    np.testing.assert_array_equal(ours, expected)
