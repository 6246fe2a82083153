"""Reads files of safetensors, and writes MobileNetV2's PyTorch names to slim's."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors

from mnv2_hpu.checkpoints import layer_names
from mnv2_hpu.errors import UserError, shorten

MAX_BYTES = 1 << 30  # the largest MobileNetV2 has 30 MB
_HEAD = 8  # bytes before the header: its length
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
# PyTorch's `[out, in, h, w]` to `[h, w, in, out]`; a depthwise kernel has one input.
_KERNEL, _DEPTHWISE = (2, 3, 1, 0), (2, 3, 0, 1)
PREFIX = "mobilenet_v2."  # Hugging Face's, before all but the head
COUNTER = ".num_batches_tracked"

# A name that only files of this library hold.
_SIGNATURES = {
  "huggingface": "conv_stem.first_conv.convolution.weight",
  "timm": "conv_stem.weight",
  "torchvision": "features.0.0.weight",
}


def is_safetensors(path: str) -> bool:
  """Whether a file begins as one of safetensors does."""
  with open(path, "rb") as file:
    start = file.read(_HEAD + 1)
  return len(start) > _HEAD and start[_HEAD:] == b"{"


def read(path: str) -> dict[str, np.ndarray]:
  """Returns all tensors by name, floating ones as float32.

  Args:
    path: The file. Its header and offsets are checked by the library `safetensors`.

  Raises:
    UserError: If it is corrupt, too large, or of a type of numbers that is not read.
  """
  if os.path.getsize(path) > MAX_BYTES:
    raise UserError(
      f"{path!r} has {os.path.getsize(path):,} bytes; no MobileNetV2 has more than "
      f"{MAX_BYTES:,}."
    )
  with open(path, "rb") as file:
    content = file.read()
  try:
    tensors = safetensors.deserialize(content)
  except safetensors.SafetensorError as error:
    raise UserError(f"{path!r} is no whole file of safetensors: {error}.") from error
  return {name: _array(path, name, tensor) for name, tensor in tensors}


def _array(path: str, name: str, tensor: Mapping[str, Any]) -> np.ndarray:
  dtype, shape, data = (tensor[key] for key in ("dtype", "shape", "data"))
  if dtype == "BF16":  # the upper half of a float32
    halves = np.frombuffer(data, "<u2").astype(np.uint32)
    return (halves << 16).view(np.float32).reshape(shape)
  if dtype not in _DTYPES:
    raise UserError(
      f"{path!r}: {name} is of type {dtype}; F32, F16, BF16 and F64 are read."
    )
  array = np.frombuffer(data, _DTYPES[str(dtype)]).reshape(shape)
  return array.astype(np.float32) if array.dtype.kind == "f" else array


def library_of(tensors: Mapping[str, np.ndarray]) -> str | None:
  """Returns the library whose names these are, None if none of them."""
  for library, name in _SIGNATURES.items():
    if name in tensors or f"{PREFIX}{name}" in tensors:
      return library
  return None


def to_slim(
  tensors: Mapping[str, np.ndarray], library: str
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Renames and transposes the variables of a file.

  Args:
    tensors: Its tensors by name.
    library: What `library_of` returned.

  Returns:
    Arrays by slim's name, without `MobilenetV2/`, in its layout; and the names of what
    is left out on purpose: a segmentation's head.

  Raises:
    UserError: If a tensor has no place in the network, or too few or many dimensions.
  """
  names = layer_names.torch_names(library)
  values: dict[str, np.ndarray] = {}
  unknown, left_out = [], []
  for name, tensor in tensors.items():
    bare = name.removeprefix(PREFIX)
    if bare in names:
      values[names[bare]] = _transpose(name, names[bare], tensor)
    elif name.startswith(layer_names.SEGMENTATION):
      left_out.append(name)
    elif not name.endswith(COUNTER):
      unknown.append(name)
  if unknown:
    raise UserError(
      f"{len(unknown)} tensors have no place in MobileNetV2: {shorten(unknown)}. "
      "Networks with more blocks (timm's 110d, 120d), or other ones, are not read."
    )
  return values, left_out


def segmentation_head(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Renames and transposes the variables of Hugging Face's segmentation head.

  Args:
    tensors: Tensors of a file by name.

  Returns:
    Arrays by research/deeplab's name, in its layout; empty where there is no head.

  Raises:
    UserError: If a tensor has too few or many dimensions.
  """
  return {
    ours: _transpose(name, ours, tensors[name])
    for name, ours in layer_names.segmentation_names().items()
    if name in tensors
  }


def from_slim(slim_name: str, value: np.ndarray) -> np.ndarray:
  """Returns a variable in PyTorch's layout; undoes `to_slim`.

  Args:
    slim_name: Slim's name, without `MobilenetV2/`.
    value: In Keras' layout.
  """
  if value.ndim == 2:
    return value.T
  if value.ndim < 4:
    return value
  is_depthwise = slim_name.endswith("depthwise_weights")
  return value.transpose(np.argsort(_DEPTHWISE if is_depthwise else _KERNEL))


def _transpose(name: str, slim_name: str, tensor: np.ndarray) -> np.ndarray:
  leaf = slim_name.rpartition("/")[2]
  is_classifier = leaf == "weights" and slim_name.startswith("Logits")
  wanted = {"weights": 2 if is_classifier else 4, "depthwise_weights": 4}.get(leaf, 1)
  if tensor.dtype.kind != "f":
    raise UserError(f"{name} holds {tensor.dtype}; weights are floating-point numbers.")
  if tensor.ndim != wanted:
    raise UserError(
      f"{name} has shape {list(tensor.shape)}; {wanted} dimensions are expected."
    )
  if is_classifier:
    return tensor.T[np.newaxis, np.newaxis]
  if leaf == "depthwise_weights":
    return tensor.transpose(_DEPTHWISE)
  return tensor.transpose(_KERNEL) if wanted == 4 else tensor
