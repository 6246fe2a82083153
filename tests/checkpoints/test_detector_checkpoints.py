"""Checkpoints of the TF1 Object Detection API into SSDLite."""

import golden_detection as golden
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.checkpoints import load_slim_checkpoint, variables
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import ssdlite
from mnv2_hpu.modeling.mobilenet_v2 import MobileNetV2

EMA = "ExponentialMovingAverage"


def _model(num_classes=7):
  specs = keras.layers.InputSpec(shape=[None, 160, 160, 3])
  backbone = MobileNetV2(
    width_multiplier=0.35,
    input_specs=specs,
    finegrain_classification_mode=False,
    min_channels=16,
    output_intermediate_endpoints=True,
  )
  return ssdlite.SSDLite(backbone, num_classes, specs, 0.35)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  """As the API writes it: raw weights, their averages, slots, the step."""
  path = str(tmp_path_factory.mktemp("api") / "model.ckpt-200000")
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    saved = {"global_step": tf.Variable(200000, dtype=tf.int64)}
    for name, shape in golden.architectures()["160_0.35_7"]["variables"]:
      drawn = golden.draw_weights(name, tuple(shape), 1300)
      saved[name] = tf.Variable(drawn)
      if not name.rpartition("/")[2].startswith("moving_"):
        saved[f"{name}/{EMA}"] = tf.Variable(drawn + 1)
        saved[f"{name}/RMSProp"] = tf.Variable(drawn)
    session.run(tf.compat.v1.global_variables_initializer())
    tf.compat.v1.train.Saver(saved).save(session, path)
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
