"""Writes a trained model as SavedModel and TFLite, with metadata of what they are."""

import contextlib
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import tensorflow as tf
from official.core import config_definitions as cfg

from mnv2_hpu import files
from mnv2_hpu.checkpoints import restore
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError, did_you_mean
from mnv2_hpu.serving import metadata
from mnv2_hpu.serving.image_classification import ClassificationModule

# Function of the module -> signature of the SavedModel.
SIGNATURES = {"image_tensor": "serving_default", "image_bytes": "image_bytes"}


@dataclasses.dataclass(frozen=True)
class ExportResult:
  """What was written.

  Attributes:
    export_dir: Folder of the export.
    files: Path by format, of those in `FORMATS` that were requested.
    metadata: Path of `export.json`.
    restored: Checkpoint, and which of its weights.
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

  Everything is written to temporary files and moved into place at the end,
  `export.json` last: a folder with that file holds a whole export. An earlier one in
  the folder is replaced.

  Args:
    params: Experiment that the checkpoint was trained with.
    checkpoint: Prefix of its files, or a folder: its newest checkpoint.
    export_dir: Folder to write to.
    weights: `"ema"` or `"raw"`.
    formats: Names in `FORMATS`.
    label_names: Name of each class, for the metadata.
    significant_bits: Bits that 16-bit images use, as the data set was prepared.

  Raises:
    UserError: If a format is unknown, or the checkpoint cannot serve
      (`checkpoints.restore`).
  """
  for name in formats:
    if name not in FORMATS:
      raise UserError(f"--formats holds {name!r}. {did_you_mean(name, FORMATS)}")
  if not formats:
    raise UserError(f"--formats is empty; allowed are {', '.join(FORMATS)}.")
  keras.mixed_precision.set_global_policy("float32")
  module = ClassificationModule(params, significant_bits=significant_bits)
  restored = restore.restore_weights(module.model, checkpoint, weights)
  content = metadata.describe(module, restored, label_names)
  os.makedirs(export_dir, exist_ok=True)
  written = {}
  # All are moved into place when the block ends, in reverse order.
  with contextlib.ExitStack() as stack:
    path = os.path.join(export_dir, metadata.FILE)
    _write_json(stack.enter_context(files.atomic_write(path)), content)
    for name in formats:
      written[name] = FORMATS[name](module, export_dir, content, stack)
  return ExportResult(export_dir, written, path, restored)


def _write_saved_model(
  module: ClassificationModule,
  export_dir: str,
  content: dict[str, Any],
  stack: contextlib.ExitStack,
) -> str:
  path = os.path.join(export_dir, "saved_model")
  folder = stack.enter_context(files.atomic_folder(path))
  signatures = module.get_inference_signatures(SIGNATURES)
  tf.saved_model.save(_Variables(module.model), folder, signatures=signatures)
  extra = os.path.join(folder, metadata.SAVED_MODEL_DIR)
  os.makedirs(extra)
  with open(os.path.join(extra, metadata.FILE), "w", encoding="utf-8") as file:
    _write_json(file, content)
  return path


class _Variables(tf.Module):
  """The weights that the signatures read.

  Saving the Keras model itself would trace every layer, in training mode as well:
  minutes and megabytes for functions that nobody calls.
  """

  def __init__(self, model: keras.Model) -> None:
    super().__init__()
    self.all_weights = list(model.variables)


def _write_tflite(
  module: ClassificationModule,
  export_dir: str,
  content: dict[str, Any],
  stack: contextlib.ExitStack,
) -> str:
  del content  # a flat buffer has no place for it
  path = os.path.join(export_dir, "model.tflite")
  single = ClassificationModule(
    module.params, batch_size=1, input_type="tflite", model=module.model
  )
  function = single.get_inference_signatures({"tflite": "serving_default"})
  converter = tf.lite.TFLiteConverter.from_concrete_functions(
    [function["serving_default"]], _Variables(module.model)
  )
  with _capture_native_stderr():
    flat_buffer = converter.convert()
  stack.enter_context(files.atomic_write(path, "wb")).write(flat_buffer)
  return path


@contextlib.contextmanager
def _capture_native_stderr() -> Iterator[None]:
  """Shows what native code writes to standard error only if the block fails.

  The converter lists the operations it kept, whatever the log level.
  """
  sys.stderr.flush()
  stderr = os.dup(2)
  with tempfile.TemporaryFile() as captured:
    os.dup2(captured.fileno(), 2)
    try:
      yield
    except BaseException:
      captured.seek(0)
      os.write(stderr, captured.read())
      raise
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)


# Writes each format, and returns its path.
FORMATS: dict[str, Callable[..., str]] = {
  "saved_model": _write_saved_model,
  "tflite": _write_tflite,
}


def _write_json(file: IO[str], content: dict[str, Any]) -> None:
  json.dump(content, file, indent=2, ensure_ascii=False)
  file.write("\n")
