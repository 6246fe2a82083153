"""Writes a trained model as SavedModel and TFLite, with a note of what they are."""

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg

from mnv2_hpu import __version__, compat
from mnv2_hpu.checkpoints import restore
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError, did_you_mean
from mnv2_hpu.serving.image_classification import ClassificationModule
from mnv2_hpu.serving.verify import METADATA

# Signature of the SavedModel by the function of the module.
SIGNATURES = {"image_tensor": "serving_default", "image_bytes": "image_bytes"}


@dataclasses.dataclass(frozen=True)
class ExportResult:
  """What was written.

  Attributes:
    export_dir: the folder.
    files: path by format, of those in `FORMATS` that were asked for.
    metadata: path of `export.json`.
    restored: the checkpoint and which of its weights.
  """

  export_dir: str
  files: dict[str, str]
  metadata: str
  restored: restore.RestoredCheckpoint

  def summary(self) -> str:
    """Returns the line to print."""
    return (
      f"exported the {self.restored.weights} weights of {self.restored.path} (step "
      f"{self.restored.global_step}): {', '.join(self.files.values())}"
    )


def export(
  params: cfg.ExperimentConfig,
  checkpoint: str,
  export_dir: str,
  *,
  weights: str = "ema",
  formats: Sequence[str] = ("saved_model", "tflite"),
  label_names: Sequence[str] | None = None,
  significant_bits: int = 16,
) -> ExportResult:
  """Exports the model of a checkpoint, computing in float32.

  Everything is written aside and moved into place at the end, `export.json` last: a
  folder with that file holds a whole export. An earlier one in the folder is replaced.

  Args:
    params: the experiment that the checkpoint was trained with.
    checkpoint: prefix of its files, or a folder: its newest checkpoint.
    export_dir: folder to write to.
    weights: "ema" or "raw".
    formats: of `FORMATS`.
    label_names: name of each class, for the note.
    significant_bits: Bits that 16-bit images use, as the data set was prepared.

  Raises:
    UserError: if a format is unknown, or the checkpoint cannot serve
      (`checkpoints.restore`).
  """
  if not formats:
    raise UserError(f"--formats is empty; allowed are {', '.join(FORMATS)}.")
  for name in formats:
    if name not in FORMATS:
      raise UserError(f"--formats holds {name!r}. {did_you_mean(name, FORMATS)}")
  keras.mixed_precision.set_global_policy("float32")
  module = ClassificationModule(params, significant_bits=significant_bits)
  restored = restore.restore_weights(module.model, checkpoint, weights)
  metadata = describe(module, restored, label_names)
  aside = os.path.join(export_dir, f".partial.{os.getpid()}")
  os.makedirs(aside)
  try:
    names = [FORMATS[name](module, aside, metadata) for name in formats]
    _write_json(os.path.join(aside, METADATA), metadata)
    for name in (*names, METADATA):
      _replace(os.path.join(aside, name), os.path.join(export_dir, name))
  finally:
    shutil.rmtree(aside)
  return ExportResult(
    export_dir,
    {f: os.path.join(export_dir, n) for f, n in zip(formats, names, strict=True)},
    os.path.join(export_dir, METADATA),
    restored,
  )


def describe(
  module: ClassificationModule,
  restored: restore.RestoredCheckpoint,
  label_names: Sequence[str] | None,
) -> dict[str, Any]:
  """Returns the content of `export.json`."""
  task = module.params.task
  height, width, channels = task.model.input_size
  return {
    **dataclasses.asdict(restored),
    "num_classes": task.model.num_classes,
    "label_names": None if label_names is None else list(label_names),
    "inputs": {
      "saved_model serving_default": "uint8 [batch, height, width, 3], any size",
      "saved_model image_bytes": "string [batch], encoded images of any size",
      "tflite": f"float32 [1, {height}, {width}, {channels}], pixel values 0 to 255",
    },
    "outputs": {
      "logits": f"float32 [batch, {task.model.num_classes}]",
      "probs": f"float32 [batch, {task.model.num_classes}], softmax of the logits",
    },
    "image_decoding": {
      "significant_bits": module.significant_bits,
      "transparency": "composited over black",
      "exif_orientation": "ignored",
    },
    "preprocessing": module.preprocessing.as_dict(),
    "data": {
      "input_path": task.validation_data.input_path,
      "image_field_key": task.validation_data.image_field_key,
      "label_field_key": task.validation_data.label_field_key,
    },
    "versions": {
      "mnv2_hpu": __version__,
      "tensorflow": tf.__version__,
      compat.MODEL_GARDEN: compat.version(compat.MODEL_GARDEN),
    },
  }


def _write_saved_model(
  module: ClassificationModule, folder: str, metadata: dict[str, Any]
) -> str:
  name = "saved_model"
  path = os.path.join(folder, name)
  signatures = module.get_inference_signatures(SIGNATURES)
  tf.saved_model.save(_Variables(module.model), path, signatures=signatures)
  # TensorFlow Serving's place for files of the user's: the note stays with the model.
  extra = os.path.join(path, "assets.extra")
  os.makedirs(extra)
  _write_json(os.path.join(extra, METADATA), metadata)
  return name


class _Variables(tf.Module):
  """The weights that the signatures read.

  Saving the Keras model itself would trace every layer, in training mode as well:
  minutes and megabytes for functions that nobody calls.
  """

  def __init__(self, model: keras.Model) -> None:
    super().__init__()
    self.all_weights = list(model.variables)


def _write_tflite(
  module: ClassificationModule, folder: str, metadata: dict[str, Any]
) -> str:
  del metadata  # a flat buffer has no place for it
  name = "model.tflite"
  single = ClassificationModule(
    module.params, batch_size=1, input_type="tflite", model=module.model
  )
  function = single.get_inference_signatures({"tflite": "serving_default"})
  converter = tf.lite.TFLiteConverter.from_concrete_functions(
    [function["serving_default"]], _Variables(module.model)
  )
  with _native_chatter_aside():
    content = converter.convert()
  with open(os.path.join(folder, name), "wb") as file:
    file.write(content)
  return name


@contextlib.contextmanager
def _native_chatter_aside() -> Iterator[None]:
  """Shows what native code writes to standard error only if the work fails.

  The converter lists the operations it kept, whatever the log level.
  """
  sys.stderr.flush()
  shown = os.dup(2)
  with tempfile.TemporaryFile() as aside:
    os.dup2(aside.fileno(), 2)
    try:
      yield
    except BaseException:
      aside.seek(0)
      os.write(shown, aside.read())
      raise
    finally:
      os.dup2(shown, 2)
      os.close(shown)


# What writes each format, and returns the name of what it has written.
FORMATS: dict[str, Callable[[ClassificationModule, str, dict[str, Any]], str]] = {
  "saved_model": _write_saved_model,
  "tflite": _write_tflite,
}


def _write_json(path: str, content: dict[str, Any]) -> None:
  with open(path, "w", encoding="utf-8") as file:
    json.dump(content, file, indent=2, ensure_ascii=False)
    file.write("\n")


def _replace(source: str, target: str) -> None:
  """Moves a file or a folder to where one may be."""
  if os.path.isdir(target):
    shutil.rmtree(target)
  os.replace(source, target)
