"""`export.json`: what an export is, what it takes and returns, how it was made."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from mnv2_hpu import __version__, compat
from mnv2_hpu.checkpoints import restore
from mnv2_hpu.errors import UserError
from mnv2_hpu.serving import tflite
from mnv2_hpu.serving.image_module import ImageModule

FILE = "export.json"
# Folder in a SavedModel for files of the user's, as TensorFlow Serving has it.
SAVED_MODEL_DIR = "assets.extra"
# What is read of it again.
_TYPES: dict[str, type | tuple[type, ...]] = {
  "num_classes": int,
  "path": str,
  "weights": str,
  "versions": dict,
  "image_decoding.significant_bits": int,
  "preprocessing.name": str,
  "preprocessing.height": int,
  "preprocessing.width": int,
  "preprocessing.central_fraction": (int, float),
  "preprocessing.crop": bool,
  "data.image_field_key": str,
  "formats": list,
}
_TYPES_OF_TASK: dict[str, dict[str, type]] = {
  "classification": {"data.label_field_key": str},
  "segmentation": {"data.ignore_label": int},
}


def describe(
  module: ImageModule,
  restored: restore.RestoredCheckpoint,
  label_names: Sequence[str] | None,
) -> dict[str, Any]:
  """Returns the content of the file."""
  task = module.params.task
  channels = task.model.input_size[2]
  height, width = module.preprocessing.height, module.preprocessing.width
  return {
    **dataclasses.asdict(restored),
    "task": module.task_name,
    "num_classes": task.model.num_classes,
    "label_names": None if label_names is None else list(label_names),
    "inputs": {
      "saved_model serving_default": "uint8 [batch, height, width, 3], any size",
      "saved_model image_bytes": "string [batch], encoded images of any size",
      "saved_model preprocessed": f"float32 [batch, {height}, {width}, {channels}], "
      "after all steps of the preprocessing",
      **dict.fromkeys(
        (name for name, kind in tflite.KINDS.items() if kind != "int8"),
        f"float32 [1, {height}, {width}, {channels}], pixel values 0 to 255",
      ),
      "onnx": f"float32 [batch, {height}, {width}, {channels}], pixel values 0 to 255",
    },
    "image_decoding": {
      "significant_bits": module.significant_bits,
      "transparency": "composited over black",
      "exif_orientation": "ignored",
    },
    "preprocessing": module.preprocessing.as_dict(),
    **module.describe(),
    "versions": {
      "mnv2_hpu": __version__,
      "tensorflow": tf.__version__,
      compat.MODEL_GARDEN: compat.version(compat.MODEL_GARDEN),
    },
  }


def inputs_of(inputs: Mapping[str, str], formats: Sequence[str]) -> dict[str, str]:
  """Returns the inputs of some formats: a key's first word is the format."""
  return {key: text for key, text in inputs.items() if key.split()[0] in formats}


def task_of(content: Mapping[str, Any]) -> str:
  """Returns the task of an export, by its content of `export.json`."""
  return content.get("task", "classification")  # the only one, before it was written


def read(export_dir: str, name: str = FILE) -> dict[str, Any]:
  """Returns the content of a JSON file that `mnv2-export` leaves beside the models.

  Raises:
    UserError: If it is missing or cannot be read.
  """
  path = os.path.join(export_dir, name)
  try:
    with open(path, encoding="utf-8") as file:
      content = json.load(file)
    if name == FILE:
      _check(content)
    return content
  except (FileNotFoundError, NotADirectoryError):
    raise UserError(
      f"{export_dir!r} holds no {name}: it is not a whole export, made and checked. "
      "Write one with mnv2-export."
    ) from None
  except (OSError, ValueError) as error:
    raise UserError(f"{path!r} cannot be read: {error}. Export again.") from error


def _check(content: Mapping[str, Any]) -> None:
  """Raises a ValueError naming what is not as `describe` writes it."""
  types = dict(_TYPES)
  types |= _TYPES_OF_TASK.get(task_of(content), {})
  for path, kind in types.items():
    value: Any = content
    for key in path.split("."):
      value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, kind) or (kind is int and value is True):
      raise ValueError(f"{path} is {value!r}")
  names = content.get("label_names", 0)
  if names is not None and (
    not isinstance(names, list)
    or len(names) != content["num_classes"]
    or not all(isinstance(name, str) for name in names)
  ):
    raise ValueError(f"label_names is {names!r}, not a name of each class")
