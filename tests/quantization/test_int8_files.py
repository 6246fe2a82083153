"""The int8 file of a quantized network, without calibration: all int8, and the same."""

import helpers_small_network
import numpy as np
import pytest
import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import task_factory

import mnv2_hpu
from mnv2_hpu import compat
from mnv2_hpu.modeling import block_specs, stateless_dropout
from mnv2_hpu.quantization import network

pytestmark = pytest.mark.slow  # for the conversions

SIZE = 65


@pytest.fixture(autouse=True)
def _small(monkeypatch):
  monkeypatch.setattr(block_specs, "BLOCK_SPECS", helpers_small_network.DETECTOR_SPECS)


def _classifier():
  from mnv2_hpu.configs import quantization

  return quantization.ImageClassificationQATTask()


def _detector():
  from mnv2_hpu.configs import quantization

  return quantization.ObjectDetectionQATTask()


def _segmenter():
  from mnv2_hpu.configs import quantization

  config = quantization.SemanticSegmentationQATTask()
  config.model.aspp = config.model.decoder = "separable"
  config.model.atrous_rates = [1, 2]
  config.model.head_channels = 32
  config.model.backbone.get().output_intermediate_endpoints = True
  return config


def _module(config):
  """The program of a small network whose ranges have seen images."""
  mnv2_hpu.register()
  from mnv2_hpu.configs import quantization
  from mnv2_hpu.serving import export

  config.model.num_classes = 5
  config.model.input_size = [SIZE, SIZE, 3]
  config.model.backbone.get().width_multiplier = 0.35
  task = task_factory.get_task(config)
  model = task.build_model()
  _draw_weights(model)
  for step, images in enumerate(_images(20).reshape(5, 4, SIZE, SIZE, 3)):
    with stateless_dropout.dropout_step(tf.constant(step)):
      model(images / 127.5 - 1, training=True)
  module_cls = export.MODULES[quantization.float_type(config)]
  return module_cls(
    cfg.ExperimentConfig(task=config), batch_size=1, input_type="tflite", model=model
  )


def _draw_weights(model):
  """Gives a network weights with which its features live."""
  random = np.random.default_rng(0)
  new = {id(variable) for variable in network.ranges(model)}
  for variable in model.variables:
    shape = variable.shape.as_list()
    if len(shape) > 1:
      fan_in = 9 if "depthwise" in variable.name else np.prod(shape[:-1])
      variable.assign(random.normal(0, np.sqrt(2 / fan_in), shape))
    elif id(variable) not in new:
      start = 1.0 if "gamma" in variable.name or "variance" in variable.name else 0.0
      variable.assign(start + random.uniform(0, 0.2, shape))


def _images(count):
  """Smooth pixels from 0 to 255."""
  random = np.random.default_rng(1)
  coarse = random.uniform(0, 255, (count, 9, 9, 3)).astype(np.float32)
  return np.round(tf.image.resize(coarse, (SIZE, SIZE)).numpy())


def _interpreter(module, path, inference_type):
  from mnv2_hpu.serving import tflite

  quantization = tflite.Quantization(inference_type=inference_type)
  path.write_bytes(tflite.convert(module, "tflite_int8", quantization))
  interpreter = compat.tflite_interpreter(str(path))
  interpreter.allocate_tensors()
  return interpreter


def _floats(interpreter):
  """Names of the tensors of floats."""
  return {
    detail["name"]: detail["index"]
    for detail in interpreter.get_tensor_details()
    if detail["dtype"] == np.float32
  }


def test_a_classifier_is_int8_and_predicts_as_the_network(tmp_path):
  module = _module(_classifier())
  interpreter = _interpreter(module, tmp_path / "int8.tflite", "int8")
  assert _floats(interpreter) == {}
  runner = interpreter.get_signature_runner("serving_default")
  (details,) = runner.get_input_details().values()
  assert details["quantization"] == (1.0, -128)  # a pixel value is one step
  scale, zero = runner.get_output_details()["logits"]["quantization"]
  for image in _images(8)[:, None]:
    outputs = runner(inputs=(image - 128).astype(np.int8))
    logits = (outputs["logits"].astype(np.float32) - zero) * scale
    expected = module.inference_for_tflite(image)["logits"].numpy()
    assert np.abs(logits - expected).max() <= 0.05 * np.ptp(expected)


def test_a_classifier_takes_and_returns_floats_by_default(tmp_path):
  interpreter = _interpreter(_module(_classifier()), tmp_path / "a.tflite", "float32")
  ends = (*interpreter.get_input_details(), *interpreter.get_output_details())
  assert set(_floats(interpreter).values()) == {end["index"] for end in ends}


def test_a_detector_is_int8_but_for_its_suppression(tmp_path):
  """`TFLite_Detection_PostProcess` takes and returns floats, as it always does."""
  interpreter = _interpreter(_module(_detector()), tmp_path / "a.tflite", "int8")
  floats = set(_floats(interpreter).values())
  using = {
    operation["op_name"]
    for operation in interpreter._get_ops_details()
    if floats & {*operation["inputs"].tolist(), *operation["outputs"].tolist()}
  }
  assert "TFLite_Detection_PostProcess" in using
  # The delegate does what others do.
  assert using <= {"TFLite_Detection_PostProcess", "DEQUANTIZE", "DELEGATE"}


def test_a_segmenter_is_int8_and_labels_as_the_network(tmp_path):
  module = _module(_segmenter())
  interpreter = _interpreter(module, tmp_path / "int8.tflite", "int8")
  assert _floats(interpreter) == {}
  runner = interpreter.get_signature_runner("serving_default")
  same = []
  for image in _images(8)[:, None]:
    masks = runner(inputs=(image - 128).astype(np.int8))["masks"]
    same.append((masks == module.inference_for_tflite(image)["masks"].numpy()).mean())
  assert np.mean(same) > 0.95  # drawn weights leave many pixels between two classes
