"""Converts a network to TFLite: float32, float16, or with weights of 8 bits."""

import io
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mnv2_hpu import compat, log_filters
from mnv2_hpu.errors import UserError
from mnv2_hpu.quantization import network
from mnv2_hpu.serving.image_module import ImageModule

INFERENCE_TYPES = {"float32": tf.float32, "uint8": tf.uint8, "int8": tf.int8}
LABELS = "labels.txt"
# Format -> kind of numbers.
KINDS = {
  "tflite": "float32",
  "tflite_float16": "float16",
  "tflite_dynamic": "dynamic",
  "tflite_int8": "int8",
}


class Quantization(NamedTuple):
  """How `tflite_int8` is made.

  Attributes:
    images: Encoded images of the training set, to measure ranges of activations on;
      a network that was trained with ranges needs none.
    inference_type: Type of inputs and outputs, a name in `INFERENCE_TYPES`; outputs
      of a detector are floats, of a segmenter labels.
  """

  images: Sequence[bytes] = ()
  inference_type: str = "float32"


def convert(module: ImageModule, format_name: str, quantization: Quantization) -> bytes:
  """Returns the flat buffer of a network that takes pixels of its input size.

  Args:
    module: What is exported, for batches of one.
    format_name: Name in `KINDS`.
    quantization: For `tflite_int8`.

  Raises:
    UserError: If there are no images to calibrate with.
  """
  signatures = module.get_inference_signatures({"tflite": "serving_default"})
  variables = tf.Module()
  variables.all_weights = list(module.model.variables)
  converter = tf.lite.TFLiteConverter.from_concrete_functions(
    [signatures["serving_default"]], variables
  )
  converter.allow_custom_ops = module.has_custom_ops
  kind = KINDS[format_name]
  if kind != "float32":
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
  if kind == "float16":
    converter.target_spec.supported_types = [tf.float16]
  if kind == "int8":
    dtype = INFERENCE_TYPES[quantization.inference_type]
    converter.inference_input_type = dtype
    if module.has_float_outputs:
      converter.inference_output_type = dtype
    if not network.ranges(module.model):
      _calibrate(converter, module, quantization.images)
  with log_filters.captured_native_stderr():
    return converter.convert()


def describe(path: str) -> dict[str, dict[str, Any]]:
  """Returns what a file takes and returns: `value = scale * (integer - zero_point)`.

  Args:
    path: TFLite file.

  Returns:
    By `inputs` and `outputs`, then by name: dtype, shape, scale and zero_point; a
    scale of 0 is that of floats and labels.
  """
  signature = compat.tflite_interpreter(path).get_signature_runner()
  sides = {
    "inputs": signature.get_input_details(),
    "outputs": signature.get_output_details(),
  }
  described: dict[str, dict[str, Any]] = {}
  for side, by_name in sides.items():
    described[side] = {}
    for name, details in by_name.items():
      scale, zero_point = details["quantization"]
      described[side][name] = {
        "dtype": np.dtype(details["dtype"]).name,
        "shape": details["shape"].tolist(),
        "scale": float(scale),
        "zero_point": int(zero_point),
      }
  return described


def with_labels(flat_buffer: bytes, label_names: Sequence[str]) -> bytes:
  """Appends the file `LABELS` as TFLite's metadata holds its files: a zip archive.

  Interpreters read the model in front of it, `unzip` the names behind it
  (https://ai.google.dev/edge/litert/conversion/tensorflow/metadata).

  Args:
    flat_buffer: The model.
    label_names: Name of each class, a line each.
  """
  buffer = io.BytesIO(flat_buffer)
  lines = "".join(f"{' '.join(name.splitlines())}\n" for name in label_names)
  with zipfile.ZipFile(buffer, "a") as archive:
    archive.writestr(zipfile.ZipInfo(LABELS), lines)  # dated 1980: the same bytes
  return buffer.getvalue()


def _calibrate(converter: Any, module: ImageModule, images: Sequence[bytes]) -> None:
  """Makes the converter measure the ranges of activations on images."""
  if not images:
    raise UserError(
      "tflite_int8 is calibrated with images of the training set, of which there are "
      "none. Leave --calibration_images above 0; the run's training files must exist."
    )

  def pixels() -> Iterator[list[np.ndarray]]:
    for encoded in images:
      yield [module.pixels(encoded).numpy()[np.newaxis]]

  converter.representative_dataset = pixels
  converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
