"""Converts a network to ONNX, and runs it by ONNX Runtime: both of the extra `onnx`."""

import importlib.util
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mnv2_hpu import log_filters
from mnv2_hpu.errors import UserError
from mnv2_hpu.serving.image_module import ImageModule

FORMAT = "onnx"
_PACKAGES = ("tf2onnx", "onnxruntime")
_OPSET = 17  # ONNX 1.12 (2022) has it, and so has every later runtime
_METADATA = "export.json"  # name of the model's property that holds it


def check_installed() -> None:
  """Raises a UserError where the packages of the extra are missing."""
  missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
  if missing:
    raise UserError(
      f"ONNX needs {' and '.join(missing)}, which is not installed. Run "
      "`pip install 'mnv2-hpu[onnx]'`, or `pip install -e '.[onnx]'` in a checkout."
    )


def convert(module: ImageModule, content: Mapping[str, Any]) -> bytes:
  """Returns the model: float32 pixels `[batch, height, width, 3]`, 0 to 255.

  Args:
    module: What is exported.
    content: Content of `export.json`, which becomes a property of the model.
  """
  import onnx
  import tf2onnx

  height, width, channels = module.params.task.model.input_size
  inputs = tf.TensorSpec([None, height, width, channels], tf.float32, "inputs")
  with log_filters.captured_native_stderr():
    model, _ = tf2onnx.convert.from_function(
      module.inference_for_tflite, input_signature=[inputs], opset=_OPSET
    )
  model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
  onnx.helper.set_model_props(
    model, {_METADATA: json.dumps(content, ensure_ascii=False)}
  )
  return model.SerializeToString()


def load(path: str, num_threads: int) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
  """Returns the outputs by name as a function of float32 pixels.

  Args:
    path: File that `convert` made.
    num_threads: Threads that it computes with.

  Raises:
    ValueError: If it is corrupt.
  """
  check_installed()
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = num_threads
  try:
    session = onnxruntime.InferenceSession(
      path, options, providers=["CPUExecutionProvider"]
    )
  except Exception as error:  # classes of native code, with no base of their own
    raise ValueError(error) from error
  names = [output.name for output in session.get_outputs()]

  def classify(pixels: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(names, session.run(names, {"inputs": pixels}), strict=True))

  return classify
