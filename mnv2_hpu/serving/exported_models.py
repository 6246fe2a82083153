"""Loads what `mnv2-export` wrote: functions from encoded images to predictions."""

import os
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.tools import flatbuffer_utils

from mnv2_hpu import compat
from mnv2_hpu.checkpoints import library_files, pretrained
from mnv2_hpu.dataloaders import image_decoding
from mnv2_hpu.errors import UserError
from mnv2_hpu.serving import (
  metadata,
  object_detection,
  onnx_conversion,
  preprocessing,
  semantic_segmentation,
)

# Name in the folder of an export, by format.
FILES = {
  "saved_model": "saved_model",
  "tflite": "model.tflite",
  "tflite_float16": "model_float16.tflite",
  "tflite_dynamic": "model_dynamic.tflite",
  "tflite_int8": "model_int8.tflite",
  onnx_conversion.FORMAT: "model.onnx",
  **{name: name for name in library_files.WRITERS},
}
_TFLITE_SUFFIX, _ONNX_SUFFIX = ".tflite", ".onnx"
# Images that TFLite computes at a time, which it holds every activation of: 5 MB each
# at 224 x 224.
_CHUNK = 16
# Tasks of which TFLite computes one image at a time, and what makes a SavedModel's
# outputs of its own, given the images' heights and widths, `[n, 2]`.
_FINISH: dict[str, Callable[..., Mapping[str, np.ndarray]]] = {
  object_detection.DetectionModule.task_name: object_detection.in_pixels,
  semantic_segmentation.SegmentationModule.task_name: semantic_segmentation.in_pixels,
}
# What TensorFlow raises for bytes that are no model, or not a whole one.
_UNLOADABLE = (
  *(OSError, ValueError, RuntimeError, LookupError, TypeError, struct.error),
  tf.errors.OpError,
)

# Encoded images, as `[n]` strings, to outputs by name, `[n, ...]` each: those of the
# task's module, of a SavedModel and of TFLite alike.
Predict = Callable[[tf.Tensor], Mapping[str, np.ndarray]]


def load(export_dir: str) -> dict[str, Predict]:
  """Returns the models in the folder of an export, by format.

  Raises:
    UserError: If the folder holds no export, or a model in it is corrupt.
  """
  content = metadata.read(export_dir)
  paths = {
    name: os.path.join(export_dir, file)
    for name, file in FILES.items()
    if name in content["formats"]  # not what an earlier export has left
  }
  models = {
    name: _load(path, content) for name, path in paths.items() if os.path.exists(path)
  }
  if not models:
    raise UserError(f"{export_dir!r} holds none of {', '.join(FILES.values())}.")
  return models


def load_one(path: str) -> tuple[Predict, dict[str, Any]]:
  """Loads one model of an export.

  Args:
    path: Folder of a SavedModel, or a TFLite or ONNX file with its `export.json`
      beside it.

  Returns:
    The function, and the content of `export.json`.

  Raises:
    UserError: If `path` is neither, or is corrupt.
  """
  path = os.path.normpath(path)
  if os.path.isfile(os.path.join(path, "saved_model.pb")):
    folder = os.path.join(path, metadata.SAVED_MODEL_DIR)
  elif os.path.isfile(path) and path.endswith((_TFLITE_SUFFIX, _ONNX_SUFFIX)):
    folder = os.path.dirname(path) or "."
  else:
    raise UserError(
      f"{path!r} is no exported model. Allowed are the folder of a SavedModel (with "
      f"its saved_model.pb) and a *{_TFLITE_SUFFIX} or *{_ONNX_SUFFIX} file, written "
      "by mnv2-export. Weights of other libraries are imported first: "
      "mnv2-import-checkpoint."
    )
  content = metadata.read(folder)
  return _load(path, content), content


def _load(path: str, content: Mapping[str, Any]) -> Predict:
  loaders = {_TFLITE_SUFFIX: _tflite, _ONNX_SUFFIX: _onnx}
  loaders |= dict.fromkeys(library_files.WRITERS, _library)
  name = os.path.basename(path)
  loader = loaders.get(os.path.splitext(name)[1] or name, _saved_model)
  try:
    return loader(path, content)
  except _UNLOADABLE as error:
    if isinstance(error, UserError):
      raise
    reason = str(error).split("\n", maxsplit=1)[0]
    raise UserError(f"{path!r} cannot be loaded ({reason}). Export again.") from error


def _saved_model(path: str, content: Mapping[str, Any]) -> Predict:
  del content  # it needs none
  loaded = tf.saved_model.load(path)
  if "image_bytes" not in loaded.signatures:
    raise ValueError("it has no signature image_bytes")

  def run(encoded: tf.Tensor) -> Mapping[str, np.ndarray]:
    # Not the signature alone: its variables live as long as `loaded`.
    outputs = loaded.signatures["image_bytes"](inputs=encoded)
    return {name: value.numpy() for name, value in outputs.items()}

  return run


def _tflite(path: str, content: Mapping[str, Any]) -> Predict:
  flatbuffer_utils.read_model(path)  # checks bounds; the interpreter reads beyond them
  interpreter = compat.tflite_interpreter(path, _num_threads())
  signature = interpreter.get_signature_runner("serving_default")

  def predict(pixels: np.ndarray) -> Mapping[str, np.ndarray]:
    details = signature.get_input_details()["inputs"]
    # A runner resizes the model to the batch that it is given.
    outputs = signature(inputs=_quantize(pixels, details))
    kinds = signature.get_output_details()
    return {name: _dequantize(value, kinds[name]) for name, value in outputs.items()}

  return _of_pixels(predict, content)


def _library(path: str, content: Mapping[str, Any]) -> Predict:
  """Returns the network of another library, as `mnv2-import-checkpoint` reads it."""
  model, _ = pretrained.load_pretrained(path)
  preprocess = preprocessing.from_dict(content["preprocessing"])

  @tf.function(reduce_retracing=True)
  def logits(pixels: tf.Tensor) -> tf.Tensor:
    return model(preprocess.normalize(pixels), training=False)

  def classify(pixels: np.ndarray) -> Mapping[str, np.ndarray]:
    values = logits(tf.constant(pixels))
    return {"logits": values.numpy(), "probs": tf.nn.softmax(values).numpy()}

  return _of_pixels(classify, content)


def _onnx(path: str, content: Mapping[str, Any]) -> Predict:
  return _of_pixels(onnx_conversion.load(path, _num_threads()), content)


def _num_threads() -> int:
  return len(os.sched_getaffinity(0))


def _of_pixels(
  predict: Callable[[np.ndarray], Mapping[str, np.ndarray]],
  content: Mapping[str, Any],
) -> Predict:
  """Returns a model of encoded images, for one that takes pixels of its input size.

  Args:
    predict: The model, for float32 `[batch, height, width, 3]`.
    content: Content of `export.json`.
  """
  preprocess = preprocessing.from_dict(content["preprocessing"])
  significant_bits = content["image_decoding"]["significant_bits"]

  finish = _FINISH.get(metadata.task_of(content))
  chunk = 1 if finish else _CHUNK

  def resize(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    image = image_decoding.decode_image(encoded, significant_bits)
    return preprocess.resize(image), tf.shape(image)[:2]

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
  def resized(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    pixels = tf.TensorSpec([preprocess.height, preprocess.width, 3], tf.float32)
    return tf.map_fn(
      resize,
      batch,
      fn_output_signature=(pixels, tf.TensorSpec([2], tf.int32)),
      parallel_iterations=_num_threads(),
    )

  def run(encoded: tf.Tensor) -> Mapping[str, np.ndarray]:
    chunks, sizes = [], []
    for start in range(0, len(encoded), chunk):
      pixels, image_sizes = resized(encoded[start : start + chunk])
      chunks.append(predict(pixels.numpy()))
      sizes.append(image_sizes.numpy())
    outputs = {name: np.concatenate([c[name] for c in chunks]) for name in chunks[0]}
    return finish(outputs, np.concatenate(sizes)) if finish else outputs

  return run


def _quantize(values: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
  """Returns values in the type of a tensor of TFLite."""
  dtype, (scale, zero_point) = details["dtype"], details["quantization"]
  if not np.issubdtype(dtype, np.integer):
    return values.astype(dtype)
  bounds = np.iinfo(dtype)
  quantized = np.round(values / scale) + zero_point
  return np.clip(quantized, bounds.min, bounds.max).astype(dtype)


def _dequantize(values: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
  """Returns the numbers that a tensor of TFLite stands for."""
  scale, zero_point = details["quantization"]
  if not np.issubdtype(details["dtype"], np.integer) or not scale:
    return values  # floats, or labels
  return (values.astype(np.float32) - zero_point) * np.float32(scale)
