"""Weights from every source that people have, distinguished by what files hold."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from official.vision.modeling import classification_model

from mnv2_hpu.checkpoints import (
  hub_config,
  keras_files,
  safe_tensors,
  slim,
  slim_architecture,
  variables,
)
from mnv2_hpu.checkpoints.hub_config import HubConfig
from mnv2_hpu.checkpoints.slim_architecture import SCOPE, Architecture
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError, shorten
from mnv2_hpu.modeling import precision
from mnv2_hpu.modeling.mobilenet_v2 import MobileNetV2

IMAGENET_CLASSES = 1001  # slim's: the background and ImageNet's 1,000
_READABLE = (".safetensors", ".keras", ".h5", ".hdf5")
_OF_PYTORCH = (".bin", ".pth", ".pt", ".pkl", ".pickle")
_PICKLES = (*_OF_PYTORCH, ".npy", ".npz")
_RESAVE = (
  "PyTorch's own files can run code when they are opened, so none is. Where the file "
  "is trusted, re-save it: `import torch, safetensors.torch as s; "
  "s.save_file(torch.load('weights.pth', weights_only=True), 'weights.safetensors')`"
)


@dataclasses.dataclass(frozen=True)
class PretrainedInfo:
  """What weights are, and what they expect.

  Attributes:
    source: `slim`, `keras`, `huggingface`, `timm` or `torchvision`.
    path: File, or prefix of files, that was read.
    width_multiplier: Factor of the channels of every layer.
    finegrain_classification_mode: Whether widths below 1 keep 1280 last channels.
    num_classes: Number of logits; None where there is no classifier.
    use_explicit_padding: Whether strided convolutions pad as PyTorch's do.
    norm_epsilon: Added to the batch variance.
    output_stride: Input size / size of the last features; None is 32.
    preprocessing: `inception` (pixels from -1 to 1) or `model_garden` (by ImageNet's
      mean and standard deviation).
    image_size: Side of the images it was trained with, in pixels.
    label_names: Name of each class; None where the source has none.
    central_fraction: Part of an image's height and width that evaluation looks at.
    background_class: Whether class 0 is slim's background class.
    notes: What people should know, a line each.
    weights: `ema` or `raw`, of slim's; else `raw`.
    global_step: Steps that it was trained, where known.
  """

  source: str
  path: str
  width_multiplier: float
  finegrain_classification_mode: bool
  num_classes: int | None
  use_explicit_padding: bool = False
  norm_epsilon: float = 1e-3
  output_stride: int | None = None
  preprocessing: str = "inception"
  image_size: int = 224
  label_names: tuple[str, ...] | None = None
  central_fraction: float = 0.875
  background_class: bool = False
  notes: tuple[str, ...] = ()
  weights: str = "raw"
  global_step: int | None = None

  def __getitem__(self, name: str) -> Any:
    """Returns an attribute by its name, as `import.json` has it."""
    return dataclasses.asdict(self)[name]


def load_pretrained(
  path: str, weights: str = "ema"
) -> tuple[keras.Model, PretrainedInfo]:
  """Loads the network of any source.

  Args:
    path: A file: safetensors of Hugging Face, timm or torchvision, `.h5`,
      `.weights.h5` or `.keras` of Keras Applications, a checkpoint of slim's; or a
      folder with one of them, as a hub gives it.
    weights: Of a slim checkpoint, `"ema"` or `"raw"`.

  Returns:
    The classification model, which maps preprocessed images `[batch, height, width,
    3]` to logits `[batch, num_classes]`, both float32; without a classifier the
    backbone alone. And what the weights are and expect.

  Raises:
    UserError: If nothing there can be read, or it is another network; the message says
      which tensor is missing, misshapen or has no place.
  """
  file = find_file(path)
  if file is None:
    return _load_slim(path, weights)
  values, info = read_file(file)
  model = build_model(info)
  assign(file, model, values)
  return model, info


def build_model(info: PretrainedInfo) -> keras.Model:
  """Builds the classification model, or without classes the backbone alone."""
  with precision.full_precision():
    backbone = MobileNetV2(
      info.width_multiplier,
      output_stride=info.output_stride,
      finegrain_classification_mode=info.finegrain_classification_mode,
      use_explicit_padding=info.use_explicit_padding,
      norm_epsilon=info.norm_epsilon,
    )
    if info.num_classes is None:
      return backbone
    return classification_model.ClassificationModel(backbone, info.num_classes)


def find_file(path: str) -> str | None:
  """Returns the file to read; None where it may be a checkpoint of slim's.

  Args:
    path: A file or a folder.

  Raises:
    UserError: If there is none, or only such as are never opened.
  """
  if "://" in path:
    return None
  if os.path.isdir(path):
    names = sorted(os.listdir(path))
    found = [name for name in names if name.endswith(_READABLE)]
    if "model.safetensors" in found:
      found = ["model.safetensors"]
    if len(found) > 1:
      raise UserError(f"{path!r} holds {shorten(found)}. Name one of these files.")
    if found:
      return os.path.join(path, found[0])
    pickles = [name for name in names if name.endswith(_OF_PYTORCH)]
    if pickles and not any(name.endswith(".index") for name in names):
      raise UserError(
        f"{path!r} holds {shorten(pickles)}, but no file that is read. {_RESAVE}"
      )
    return None
  if not os.path.isfile(path):
    return None
  if safe_tensors.is_safetensors(path) or keras_files.is_keras(path):
    return path
  if path.endswith(_PICKLES):
    raise UserError(f"{path!r} is not opened. {_RESAVE}")
  if path.endswith(_READABLE):
    raise UserError(f"{path!r} is corrupt, or no such file: it begins as none does.")
  return None


def read_file(path: str) -> tuple[dict[str, np.ndarray], PretrainedInfo]:
  """Returns the arrays of a file by slim's names, and what they are.

  Args:
    path: A file that `find_file` has returned.

  Raises:
    UserError: If it holds no MobileNetV2, or cannot be read.
  """
  notes, image_size = [], None
  if safe_tensors.is_safetensors(path):
    tensors = safe_tensors.read(path)
    source = safe_tensors.library_of(tensors)
    if source is None:
      raise UserError(
        f"{path!r} holds no MobileNetV2 of Hugging Face, timm or torchvision, but "
        f"{shorten(sorted(tensors)) or 'nothing'}."
      )
    values, left_out = safe_tensors.to_slim(tensors, source)
    if left_out:
      notes.append(f"left out: {len(left_out)} tensors of the segmentation's head")
  else:
    source = "keras"
    values, left_out, rescaling, image_size = keras_files.read(path)
    if left_out:
      notes.append(f"left out: {shorten(left_out)}, which is no single Dense layer")
    if rescaling:
      notes.append(
        f"the layer {rescaling!r} changes the pixels before the network: these weights "
        "may expect another range than -1 to 1"
      )
  config = hub_config.read(os.path.dirname(path), source)
  if image_size is not None:
    config = config._replace(image_size=image_size)
  values = {f"{SCOPE}/{name}": value for name, value in values.items()}
  try:
    architecture = slim_architecture.infer({n: v.shape for n, v in values.items()})
  except UserError as error:
    raise UserError(f"{path!r} is no whole MobileNetV2. {error}") from error
  return values, _info(source, path, architecture, config, notes)


def _info(
  source: str,
  path: str,
  architecture: Architecture,
  config: HubConfig,
  notes: list[str],
) -> PretrainedInfo:
  classes = architecture.num_classes
  names = config.label_names
  if names is not None and len(names) != classes:
    notes.append(f"config.json names {len(names)} classes, the weights have {classes}")
    names = None
  return PretrainedInfo(
    source,
    path,
    **dataclasses.asdict(architecture),
    **{**config._asdict(), "label_names": names},
    background_class=classes == IMAGENET_CLASSES,
    notes=tuple(notes),
  )


def assign(path: str, model: keras.Model, values: Mapping[str, np.ndarray]) -> None:
  """Sets every variable of a model, or none of them.

  Args:
    path: File of the values, for messages.
    model: Network, built.
    values: Arrays by slim's name.

  Raises:
    UserError: If they do not fit, or are not finite.
  """
  targets = variables.by_slim_name(model)
  shapes = {name: value.shape for name, value in values.items()}
  variables.check_fits(path, shapes, targets)
  variables.check_finite(path, values)
  for name, variable in targets.items():
    variable.assign(values[name].reshape(variable.shape))


def _load_slim(path: str, weights: str) -> tuple[keras.Model, PretrainedInfo]:
  architecture = slim.read_architecture(path)
  info = _info("slim", path, architecture, HubConfig(False, 1e-3), [])
  model = build_model(info)
  read = slim.load_slim_checkpoint(model, path, weights=weights)
  return model, dataclasses.replace(
    info, path=read.path, weights=weights, global_step=read.global_step
  )
