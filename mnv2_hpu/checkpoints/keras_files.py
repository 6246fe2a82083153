"""Reads weights of Keras Applications' MobileNetV2 from every file that Keras writes.

Four forms: HDF5 of Keras 2 (`save_weights`, or a whole model), `.weights.h5` of Keras
2.15 and 3, and `.keras`, a zip archive with such a file in it. It may be nested
in another model. Nothing is deserialized: h5py reads arrays, `config.json` is data.
"""

import io
import json
import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple

import h5py
import numpy as np

from mnv2_hpu.checkpoints import layer_names
from mnv2_hpu.checkpoints.hub_config import MAX_SIDE
from mnv2_hpu.checkpoints.slim_architecture import LOGITS
from mnv2_hpu.errors import UserError, shorten

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_WEIGHTS_MEMBER, _CONFIG_MEMBER = "model.weights.h5", "config.json"
_MAX_BYTES = 1 << 30  # the largest MobileNetV2 has 30 MB
_MAX_VALUES = 1 << 28
# Numbered variables of Keras' newer files, by kind of layer.
_VARS = {
  "conv2d": ["kernel"],
  "depthwise_conv2d": ["depthwise_kernel"],
  "batch_normalization": ["gamma", "beta", "moving_mean", "moving_variance"],
  "dense": ["kernel", "bias"],
}
_LEAVES = {"kernel": "weights", "depthwise_kernel": "depthwise_weights"}
_NORM_LEAVES = tuple(_VARS["batch_normalization"])
# Layers that change the range of the pixels before the network.
_RESCALING = ("Rescaling", "Normalization", "Lambda", "TrueDivide")


class KerasFile(NamedTuple):
  """What a file holds.

  Attributes:
    values: Arrays by slim's name, without `MobilenetV2/`, in its layout.
    left_out: Names of layers that are no part of MobileNetV2.
    rescaling: Name of a layer that changes the pixels before it; empty if none does.
    image_size: Side of the images that the model takes; None where it is not said.
  """

  values: dict[str, np.ndarray]
  left_out: list[str]
  rescaling: str
  image_size: int | None


def is_keras(path: str) -> bool:
  """Whether a file begins as one of Keras' does."""
  with open(path, "rb") as file:
    if file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE:
      return True
  return zipfile.is_zipfile(path) and _WEIGHTS_MEMBER in _members(path)


def _members(path: str) -> list[str]:
  try:
    with zipfile.ZipFile(path) as archive:
      return archive.namelist()
  except zipfile.BadZipFile:
    return []


def read(path: str) -> KerasFile:
  """Reads a file.

  Args:
    path: An HDF5 file or a `.keras` archive.

  Raises:
    UserError: If it is corrupt, too large, or holds no MobileNetV2.
  """
  if os.path.getsize(path) > _MAX_BYTES:
    raise UserError(f"{path!r} has {os.path.getsize(path):,} bytes: no MobileNetV2.")
  try:
    if not zipfile.is_zipfile(path):
      return _read(path, path, None)
    with zipfile.ZipFile(path) as archive:
      config = json.loads(_member(archive, _CONFIG_MEMBER))
      return _read(path, io.BytesIO(_member(archive, _WEIGHTS_MEMBER)), config)
  except UserError:
    raise
  except (
    *(OSError, KeyError, ValueError, TypeError, RuntimeError, RecursionError),
    *(zipfile.BadZipFile, EOFError, NotImplementedError, MemoryError),
  ) as error:
    raise UserError(
      f"{path!r} cannot be read as a file of Keras: {str(error) or repr(error)}."
    ) from error


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
  """Returns a member, whatever size its header claims, up to `_MAX_BYTES`."""
  with archive.open(name) as member:
    content = member.read(_MAX_BYTES + 1)
  if len(content) > _MAX_BYTES:
    raise ValueError(f"{name} unpacks to more than {_MAX_BYTES:,} bytes")
  return content


def _read(path: str, source: str | IO[bytes], config: Any) -> KerasFile:
  with h5py.File(source, "r") as file:
    if config is None and "model_config" in file.attrs:
      text = file.attrs["model_config"]
      config = json.loads(text if isinstance(text, str) else bytes(text))
    layers = layer_arrays(file)
  found, heads = _of_network(layers)
  if not found:
    raise UserError(
      f"{path!r} holds no MobileNetV2 of Keras Applications, but the layers "
      f"{shorten(sorted(layers)) or 'none'}."
    )
  dense = [name for name in heads if set(layers[name]) == {"kernel", "bias"}]
  is_classifier = len(heads) == 1 and len(dense) == 1
  if is_classifier and layers[dense[0]]["kernel"].ndim == 2:
    head = layers[heads.pop()]
    found[f"{LOGITS}/weights"] = head["kernel"][np.newaxis, np.newaxis]
    found[f"{LOGITS}/biases"] = head["bias"]
  return KerasFile(found, heads, _rescaling(config), _image_size(config))


def layer_arrays(file: h5py.File) -> dict[str, dict[str, np.ndarray]]:
  """Returns the arrays of each layer by their names in Keras 2.

  Args:
    file: An open file. One that numbers its variables must hold a MobileNetV2.
  """
  arrays = dict(_datasets(file))
  numbered = {path: array for path, array in arrays.items() if "/vars/" in path}
  if numbered:
    return _numbered_layers(file, numbered)
  layers: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
  for path, array in arrays.items():
    layer, _, leaf = path.rpartition("/")
    layers[layer.rpartition("/")[2]][leaf.split(":")[0]] = array
  return layers


def _datasets(file: h5py.File) -> Iterator[tuple[str, np.ndarray]]:
  """Yields path and array of each data set but the optimizer's."""
  found: list[tuple[str, h5py.Dataset]] = []

  def visit(path: str, item: Any) -> None:
    if isinstance(item, h5py.Dataset) and not path.startswith("optimizer"):
      found.append((path, item))

  file.visititems(visit)
  if sum(item.size or 0 for _, item in found) > _MAX_VALUES:
    raise ValueError("its arrays claim more values than any MobileNetV2 has")
  for path, item in found:
    if item.external or item.is_virtual:
      raise ValueError(f"{path} refers to another file")
    if item.dtype.kind == "f":
      yield path, np.asarray(item[()], np.float32)


def _numbered_layers(
  file: h5py.File, arrays: Mapping[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
  """Returns the layers of a file that numbers them, by Keras Applications' names.

  Keras 3 writes the name beside; Keras 2.15 counts each kind in the model's order.
  """
  layers: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
  order = _counted_names()
  for path, array in arrays.items():
    group, _, number = path.rpartition("/")
    counted = group.removesuffix("/vars").rpartition("/")[2]
    kind = re.sub(r"_\d+$", "", counted)
    name = file[group].attrs.get("name") or order.get(counted, counted)
    name = name if isinstance(name, str) else bytes(name).decode()
    leaves = _VARS.get(kind, [])
    leaf = leaves[int(number)] if int(number) < len(leaves) else number
    layers[name][leaf] = array
  return layers


def _counted_names() -> dict[str, str]:
  """Returns the names of the network's layers by kind and count (`conv2d_7`)."""
  kinds: dict[str, list[str]] = defaultdict(list)
  for place in layer_names.places():
    kernel, norm = layer_names.keras_layer(place)
    is_depthwise = place.part == "depthwise"
    kinds["depthwise_conv2d" if is_depthwise else "conv2d"].append(kernel)
    kinds["batch_normalization"].append(norm)
  return {
    f"{kind}_{i}" if i else kind: name
    for kind, names in kinds.items()
    for i, name in enumerate(names)
  }


def _of_network(
  layers: Mapping[str, Mapping[str, np.ndarray]],
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Returns the network's arrays by slim's names, and the names of other layers."""
  found: dict[str, np.ndarray] = {}
  others = {name for name, arrays in layers.items() if arrays}
  for place in layer_names.places():
    kernel, norm = layer_names.keras_layer(place)
    others -= {kernel, norm}
    is_depthwise = place.part == "depthwise"
    for leaf, array in layers.get(kernel, {}).items():
      ours = "depthwise_kernel" if is_depthwise else leaf  # Keras 3 says `kernel`
      found[f"{place.scope}/{_LEAVES.get(ours, ours)}"] = array
    for leaf in _NORM_LEAVES:
      if leaf in layers.get(norm, {}):
        found[f"{place.scope}/BatchNorm/{leaf}"] = layers[norm][leaf]
  return found, sorted(others)


def _layer_configs(config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
  """Yields class and configuration of each layer of a model, the outer ones first."""
  if isinstance(config, Mapping):
    inner = config.get("config")
    if "class_name" in config and isinstance(inner, Mapping):
      yield str(config["class_name"]), inner
    config = list(config.values())
  if isinstance(config, list):
    for item in config:
      yield from _layer_configs(item)


def _rescaling(config: Any) -> str:
  """Returns the name of a layer of a model's configuration that rescales pixels."""
  found = (str(c.get("name", k)) for k, c in _layer_configs(config) if k in _RESCALING)
  return next(found, "")


def _image_size(config: Any) -> int | None:
  """Returns the side of a model's square input, None where none is fixed."""
  for kind, inner in _layer_configs(config):
    shape = inner.get("batch_shape") or inner.get("batch_input_shape")
    if kind == "InputLayer" and isinstance(shape, list):
      match shape:
        case [_, int(height), int(width), _] if 0 < height == width <= MAX_SIDE:
          return height
  return None
