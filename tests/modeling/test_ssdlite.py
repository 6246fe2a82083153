"""SSDLite's network against the TF1 Object Detection API, and numpy in float64."""

import golden_detection as golden
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.checkpoints import variables
from mnv2_hpu.compat import keras
from mnv2_hpu.modeling import complexity, multibox, ssdlite
from mnv2_hpu.modeling.mobilenet_v2 import MobileNetV2

DECAY = 4e-5


def build(height, width, width_multiplier, num_classes):
  """The network as the API's configuration builds it."""
  specs = keras.layers.InputSpec(shape=[None, height, width, 3])
  regularizer = keras.regularizers.l2(DECAY / 2)
  backbone = MobileNetV2(
    width_multiplier=width_multiplier,
    input_specs=specs,
    finegrain_classification_mode=False,
    min_channels=16,
    norm_momentum=0.9997,
    kernel_regularizer=regularizer,
    output_intermediate_endpoints=True,
  )
  return ssdlite.SSDLite(
    backbone, num_classes, specs, width_multiplier, kernel_regularizer=regularizer
  )


def build_golden(meta):
  model = build(meta["size"], meta["size"], meta["width"], meta["classes"])
  for name, variable in variables.by_slim_name(model).items():
    drawn = golden.draw_weights(name, tuple(variable.shape), meta["seed"])
    variable.assign(drawn)
  return model


@pytest.mark.parametrize(
  "key", ["300_1.0_90", "320_1.0_80", "320_0.5_80", "160_0.35_7"]
)
def test_parameters_and_multiply_adds_are_the_originals(key):
  size, width, classes = key.split("_")
  expected = golden.architectures()[key]
  model = build(int(size), int(size), float(width), int(classes))
  trainable = sum(v.shape.num_elements() for v in model.trainable_variables)
  assert trainable == expected["total_trainable"]
  assert model.count_params() == expected["total_all"]
  assert complexity.multiply_adds(model) == expected["madds_total"]
  anchors = ssdlite.anchors(int(size), int(size))
  assert len(anchors) == sum(expected["anchors_per_level"])
  assert model.output["box_encodings"].shape[1:] == (len(anchors), 4)
  assert model.output["class_logits"].shape[1:] == (len(anchors), int(classes) + 1)


def test_variables_have_the_originals_names_and_shapes():
  expected = golden.architectures()["160_0.35_7"]["variables"]
  ours = variables.by_slim_name(build(160, 160, 0.35, 7))
  assert {name: list(v.shape) for name, v in ours.items()} == dict(expected)


@pytest.mark.parametrize("size", ["300", "256x384"])
def test_anchors_are_the_originals(size):
  height, width = (size.split("x") * 2)[:2]
  expected = golden.load("anchors.npz")[0][size]
  assert np.allclose(ssdlite.anchors(int(height), int(width)), expected, atol=3e-7)


def test_a_network_for_oblong_images_predicts_for_every_anchor():
  outputs = build(96, 160, 0.35, 3)(np.zeros((1, 96, 160, 3), np.float32))
  assert outputs["box_encodings"].shape[1] == len(ssdlite.anchors(96, 160))


@pytest.fixture
def float64():
  keras.backend.set_floatx("float64")
  keras.mixed_precision.set_global_policy("float64")
  yield
  keras.backend.set_floatx("float32")
  keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_predictions_in_float64_are_those_of_numpy(float64, mode):
  arrays, meta = golden.load("predictions.npz")
  model = build_golden(meta)
  images = golden.images(meta["seed"] + 1, meta["batch"], meta["size"])
  outputs = model(images.astype(np.float64), training=mode == "training")
  rows = arrays["rows"]
  for name, values in outputs.items():
    assert values.dtype == tf.float64
    expected = arrays[f"{mode}/{name}"]
    assert np.allclose(values.numpy()[:, rows], expected, rtol=0, atol=1e-9), name


def test_moving_statistics_after_a_step_are_the_originals():
  arrays, meta = golden.load("predictions.npz")
  model = build_golden(meta)
  model(golden.images(meta["seed"] + 1, meta["batch"], meta["size"]), training=True)
  ours = variables.by_slim_name(model)
  for name, expected in zip(arrays["moving/names"], arrays["moving/ck"], strict=True):
    difference = golden.checksum(ours[str(name)].numpy()) - expected[:2]
    assert np.all(np.abs(difference) <= 1e-5 * expected[1]), name


def test_losses_and_gradients_of_a_step_are_the_originals():
  arrays, meta = golden.load("step_frozen.npz")
  model = build_golden(meta)
  anchors = ssdlite.anchors(meta["size"], meta["size"])
  boxes, classes = golden.step_boxes(1350, 0, meta["batch"], meta["classes"])
  targets = multibox.assign_targets(anchors, boxes, classes, meta["classes"])
  with tf.GradientTape() as tape:
    outputs = model(golden.images(1301, meta["batch"], meta["size"]), training=False)
    losses = multibox.multibox_loss(**outputs, targets=targets, anchors=anchors)
    regularization = tf.add_n(model.losses)
    total = tf.add_n([*losses, regularization])
  for value, kind in zip(
    (*losses, regularization, total),
    ("localization", "classification", "regularization", "total"),
    strict=True,
  ):
    assert np.isclose(value, arrays[f"loss/{kind}"][0], rtol=1e-5), kind
  by_name = variables.by_slim_name(model)
  names = [str(name) for name in arrays["grad_names"]]
  gradients = tape.gradient(total, [by_name[name] for name in names])
  l2 = [golden.checksum(gradient)[1] for gradient in gradients]
  expected = arrays["grad_l2"]
  error = np.abs(l2 - expected) / np.maximum(expected, 1e-3)
  assert np.median(error) < 1e-5
  assert np.max(error) < 2e-3
