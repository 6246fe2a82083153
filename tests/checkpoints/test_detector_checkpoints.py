"""Checkpoints of the TF1 Object Detection API into SSDLite."""

import golden_detection as golden
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.checkpoints import load_detector, load_slim_checkpoint, variables
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import ssdlite
from mnv2_hpu.modeling.mobilenet_v2 import MobileNetV2


def _model(num_classes=7, width=0.35):
  specs = keras.layers.InputSpec(shape=[None, 160, 160, 3])
  backbone = MobileNetV2(
    width_multiplier=width,
    input_specs=specs,
    finegrain_classification_mode=False,
    min_channels=16,
    output_intermediate_endpoints=True,
  )
  return ssdlite.SSDLite(backbone, num_classes, specs, width)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  path = str(tmp_path_factory.mktemp("api") / "model.ckpt-200000")
  golden.write_checkpoint(path, 200000)
  return path


@pytest.mark.parametrize(("weights", "offset"), [("raw", 0), ("ema", 1)])
def test_every_variable_is_read_by_the_apis_name(checkpoint, weights, offset):
  model = _model()
  read = load_slim_checkpoint(model, checkpoint, weights=weights)
  assert read.global_step == 200000
  for name, variable in variables.by_slim_name(model).items():
    drawn = golden.draw_weights(name, tuple(variable.shape), 1300)
    is_statistic = "moving_" in name  # the API averages no statistics
    expected = drawn if is_statistic else drawn + offset
    np.testing.assert_array_equal(variable, expected, err_msg=name)


def test_the_features_alone_fit_a_detector_of_other_classes(checkpoint):
  model = _model(num_classes=3)
  with pytest.raises(UserError, match="of another shape"):
    load_slim_checkpoint(model, checkpoint, weights="raw")
  load_slim_checkpoint(model, checkpoint, weights="raw", logits=False)
  name = "FeatureExtractor/MobilenetV2/Conv/weights"
  expected = golden.draw_weights(name, (3, 3, 3, 16), 1300)
  np.testing.assert_array_equal(variables.by_slim_name(model)[name], expected)


def _write(path, model, left_out=()):
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    saved = {
      name: tf.Variable(value)
      for name, value in model.items()
      if not name.startswith(left_out)
    }
    session.run(tf.compat.v1.global_variables_initializer())
    tf.compat.v1.train.Saver(saved).save(session, path)


@pytest.fixture(scope="module")
def other():
  """Another width, 3 classes; by the API's names."""
  by_name = variables.by_slim_name(_model(num_classes=3, width=0.6))
  return {name: variable.numpy() for name, variable in by_name.items()}


def test_width_classes_and_size_are_read_from_the_files(other, tmp_path):
  (tmp_path / "pipeline.config").write_text(
    "image_resizer {\n  fixed_shape_resizer {\n    height: 160\n    width: 160\n  }\n}"
  )
  _write(str(tmp_path / "model.ckpt"), other)
  model, info = load_detector(str(tmp_path))
  assert (info.width_multiplier, info.num_classes, info.image_size) == (0.6, 3, 160)
  assert (info.weights, info.global_step) == ("raw", None)  # it has no averages
  for name, variable in variables.by_slim_name(model).items():
    np.testing.assert_array_equal(variable, other[name], err_msg=name)


@pytest.mark.parametrize(
  ("left_out", "message"),
  [
    ("BoxPredictor_0/ClassPredictor", "no SSD of the Object Detection API's"),
    ("BoxPredictor_0/ClassPredictor_depthwise", "use_depthwise"),
    (
      "FeatureExtractor/MobilenetV2/layer_19_2_Conv2d_3_",
      "no SSDLite over MobileNetV2",
    ),
    (
      "FeatureExtractor/MobilenetV2/Conv_1/",
      r"\(0 is a missing one\) are .*, 0, those",
    ),
    ("BoxPredictor_3/", "does not fit the model"),
  ],
)
def test_other_detectors_are_refused(other, tmp_path, left_out, message):
  path = str(tmp_path / "model.ckpt")
  _write(path, other, left_out)
  with pytest.raises(UserError, match=message):
    load_detector(path)


@pytest.mark.parametrize("side", ["0", "1", "99999999", "9" * 5000])
def test_an_absurd_size_is_one_error(other, tmp_path, side):
  (tmp_path / "pipeline.config").write_text(
    f"fixed_shape_resizer {{ height: {side} width: {side} }}"
  )
  _write(str(tmp_path / "model.ckpt"), other)
  with pytest.raises(UserError, match=r"pipeline.config' resizes .*allowed are 32 to"):
    load_detector(str(tmp_path))


def test_a_predictor_of_half_a_class_is_refused(other, tmp_path):
  name = "BoxPredictor_0/ClassPredictor/weights"
  _write(str(tmp_path / "model.ckpt"), {**other, name: other[name][..., :3]})
  with pytest.raises(UserError, match="has 3 channels in BoxPredictor_0/ClassPred"):
    load_detector(str(tmp_path))


def test_values_that_are_not_finite_are_refused(other, tmp_path):
  name = "FeatureExtractor/MobilenetV2/Conv/weights"
  _write(str(tmp_path / "model.ckpt"), {**other, name: other[name] * np.nan})
  with pytest.raises(UserError, match=r"NaN or infinite: .*Conv/weights"):
    load_detector(str(tmp_path))
