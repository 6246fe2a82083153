"""Writes a trained model in every format, with metadata of what it is."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
import tensorflow as tf
from official.core import config_definitions as cfg

from mnv2_hpu import files
from mnv2_hpu.checkpoints import library_files, restore
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import image_classification as classification_cfg
from mnv2_hpu.configs import object_detection as detection_cfg
from mnv2_hpu.configs import quantization as quantization_cfg
from mnv2_hpu.configs import semantic_segmentation as segmentation_cfg
from mnv2_hpu.errors import UserError, did_you_mean, shorten
from mnv2_hpu.serving import (
  check_result,
  exported_models,
  folded_network,
  metadata,
  onnx_conversion,
  tflite,
)
from mnv2_hpu.serving.image_classification import ClassificationModule
from mnv2_hpu.serving.image_module import ImageModule
from mnv2_hpu.serving.object_detection import DetectionModule
from mnv2_hpu.serving.semantic_segmentation import SegmentationModule

# Function of the module -> signature of the SavedModel.
SIGNATURES = {
  "image_tensor": "serving_default",
  "image_bytes": "image_bytes",
  "preprocessed": "preprocessed",
}
# Config of a task -> its program.
MODULES: dict[type[cfg.TaskConfig], type[ImageModule]] = {
  classification_cfg.ImageClassificationTask: ClassificationModule,
  detection_cfg.ObjectDetectionTask: DetectionModule,
  segmentation_cfg.SemanticSegmentationTask: SegmentationModule,
}
DEFAULT_FORMATS = ("saved_model", "tflite")
# Those of a quantization-aware run, whose network rounds in any of them.
QUANTIZED_FORMATS = ("saved_model", "tflite_int8")


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


class _Job(NamedTuple):
  """What a format is written from.

  Attributes:
    module: The program, its network without batch norms.
    trained: The network as it was trained.
    export_dir: Folder to write to.
    content: Content of `export.json`.
    stack: Moves what was written into place when it closes.
    quantization: How `tflite_int8` is made.
  """

  module: ImageModule
  trained: keras.Model
  export_dir: str
  content: dict[str, Any]
  stack: contextlib.ExitStack
  quantization: tflite.Quantization


def build_module(
  params: cfg.ExperimentConfig,
  checkpoint: str,
  weights: str,
  significant_bits: int = 16,
) -> tuple[ImageModule, restore.RestoredCheckpoint]:
  """Returns the program of a checkpoint, computing in float32, and what was read.

  Args:
    params: Experiment that the checkpoint was trained with.
    checkpoint: Prefix of its files, or a folder: its newest checkpoint.
    weights: `"ema"` or `"raw"`.
    significant_bits: Bits that 16-bit images use, as the data set was prepared.

  Raises:
    UserError: If the checkpoint cannot serve (`checkpoints.restore`).
  """
  keras.mixed_precision.set_global_policy("float32")
  module_cls = MODULES[quantization_cfg.float_type(params.task)]
  module = module_cls(params, significant_bits=significant_bits)
  return module, restore.restore_weights(module.model, checkpoint, weights)


def as_predict(
  module: ImageModule, program: str = "inference_from_image_bytes"
) -> exported_models.Predict:
  """Returns a function of encoded images as an export is loaded as one.

  Args:
    module: Program of a checkpoint, which the function keeps.
    program: Name of one of its functions of encoded images.
  """

  def predict(encoded: tf.Tensor) -> dict[str, np.ndarray]:
    outputs = getattr(module, program)(encoded)
    return {name: value.numpy() for name, value in outputs.items()}

  return predict


def export(
  params: cfg.ExperimentConfig,
  checkpoint: str,
  export_dir: str,
  *,
  weights: str = "ema",
  formats: Sequence[str] | None = None,
  label_names: Sequence[str] | None = None,
  significant_bits: int = 16,
  quantization: tflite.Quantization | None = None,
) -> ExportResult:
  """Exports the model of a checkpoint, computing in float32.

  Everything is written to temporary files and moved into place at the end,
  `export.json` last: a folder with that file holds a whole export. An earlier one in
  the folder is replaced, and what its check found is removed.

  Args:
    params: Experiment that the checkpoint was trained with.
    checkpoint: Prefix of its files, or a folder: its newest checkpoint.
    export_dir: Folder to write to.
    weights: `"ema"` or `"raw"`.
    formats: Names in `FORMATS`; `default_formats` if None.
    label_names: Name of each class, for the metadata.
    significant_bits: Bits that 16-bit images use, as the data set was prepared.
    quantization: How `tflite_int8` is made; needed for that alone.

  Raises:
    UserError: If a format is unknown or cannot express the network, or the checkpoint
      cannot serve (`checkpoints.restore`).
  """
  formats = default_formats(params) if formats is None else formats
  check_formats(formats)
  _check_task(params, formats)
  _check_folder(export_dir)
  module, restored = build_module(params, checkpoint, weights, significant_bits)
  trained = module.model
  if not quantization_cfg.is_quantized(params.task):
    module.model = folded_network.FoldedNetwork(trained)
  content = metadata.describe(module, restored, label_names)
  content["formats"] = list(formats)
  content["inputs"] = metadata.inputs_of(content["inputs"], formats)
  os.makedirs(export_dir, exist_ok=True)
  written = {}
  # All are moved into place when the block ends, in reverse order.
  with contextlib.ExitStack() as stack:
    path = os.path.join(export_dir, metadata.FILE)
    file = stack.enter_context(files.atomic_write(path))
    quantization = quantization or tflite.Quantization()
    job = _Job(module, trained, export_dir, content, stack, quantization)
    for name in formats:
      written[name] = FORMATS[name](job, name)
    _write_json(file, content)
    for name in check_result.FILES:
      with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(export_dir, name))
  return ExportResult(export_dir, written, path, restored)


def _check_folder(export_dir: str) -> None:
  """Refuses a folder that holds something, but no export that could be replaced."""
  content = sorted(os.listdir(export_dir)) if os.path.isdir(export_dir) else []
  # An export that was killed while its files were moved leaves some of them.
  ours = set(exported_models.FILES.values())
  others = [n for n in content if n not in ours and not n.endswith(files.TMP_SUFFIX)]
  if others and metadata.FILE not in content:
    raise UserError(
      f"--export_dir={export_dir!r} holds {shorten(others)}, but no {metadata.FILE}: "
      "it is no earlier export. Give a folder that is empty or does not exist."
    )


def default_formats(params: cfg.ExperimentConfig) -> tuple[str, ...]:
  """Returns the formats that a run is exported in where none are requested."""
  is_quantized = quantization_cfg.is_quantized(params.task)
  return QUANTIZED_FORMATS if is_quantized else DEFAULT_FORMATS


def check_formats(formats: Sequence[str]) -> None:
  """Raises a UserError if a name is not in `FORMATS` or cannot be made, or is none."""
  for name in formats:
    if name not in FORMATS:
      raise UserError(f"--formats holds {name!r}. {did_you_mean(name, FORMATS)}")
  if not formats:
    raise UserError(f"--formats is empty; allowed are {', '.join(FORMATS)}.")
  if onnx_conversion.FORMAT in formats:
    onnx_conversion.check_installed()


def _check_task(params: cfg.ExperimentConfig, formats: Sequence[str]) -> None:
  """Refuses formats that a task's program cannot be written in."""
  module = MODULES[quantization_cfg.float_type(params.task)]
  allowed, what = module.formats, module.task_name
  if quantization_cfg.is_quantized(params.task):
    allowed, what = QUANTIZED_FORMATS, "a quantization-aware run"
  for name in formats:
    if allowed is not None and name not in allowed:
      raise UserError(
        f"--formats holds {name!r}, which is none of {what}. Allowed are "
        f"{', '.join(allowed)}."
      )


def _write_saved_model(job: _Job, name: str) -> str:
  path = os.path.join(job.export_dir, name)
  folder = job.stack.enter_context(files.atomic_folder(path))
  signatures = job.module.get_inference_signatures(SIGNATURES)
  # Saving the Keras model itself would trace every layer, in training mode as well:
  # minutes and megabytes for functions that nobody calls.
  variables = tf.Module()
  variables.all_weights = list(job.module.model.variables)
  tf.saved_model.save(variables, folder, signatures=signatures)
  # TensorFlow Serving's place for files of the user's: metadata stays with the model.
  extra = os.path.join(folder, "assets.extra")
  os.makedirs(extra)
  with open(os.path.join(extra, metadata.FILE), "w", encoding="utf-8") as file:
    _write_json(file, job.content)
  return path


def _write_tflite(job: _Job, name: str) -> str:
  path = os.path.join(job.export_dir, exported_models.FILES[name])
  single = type(job.module)(
    job.module.params,
    batch_size=1,
    input_type="tflite",
    model=job.module.model,
    significant_bits=job.module.significant_bits,
  )
  flat_buffer = tflite.convert(single, name, job.quantization)
  if label_names := job.content["label_names"]:
    flat_buffer = tflite.with_labels(flat_buffer, label_names)
  file = job.stack.enter_context(files.atomic_write(path, "wb"))
  file.write(flat_buffer)
  file.flush()
  if tflite.KINDS[name] == "int8":
    job.content[name] = tflite.describe(file.name)
  return path


def _write_onnx(job: _Job, name: str) -> str:
  path = os.path.join(job.export_dir, exported_models.FILES[name])
  model = onnx_conversion.convert(job.module, job.content)
  job.stack.enter_context(files.atomic_write(path, "wb")).write(model)
  return path


def _write_library_files(job: _Job, name: str) -> str:
  path = os.path.join(job.export_dir, name)
  folder = job.stack.enter_context(files.atomic_folder(path))
  preprocessing = job.content["preprocessing"]
  network = library_files.Network(
    job.trained,
    preprocessing["name"],
    preprocessing["height"],
    job.content["label_names"],
    preprocessing["central_fraction"] if preprocessing["crop"] else 1.0,
  )
  library_files.write(name, network, folder)
  return path


# Writes each format, given its name; returns its path.
FORMATS: dict[str, Callable[[_Job, str], str]] = {
  "saved_model": _write_saved_model,
  **dict.fromkeys(tflite.KINDS, _write_tflite),
  onnx_conversion.FORMAT: _write_onnx,
  **dict.fromkeys(library_files.WRITERS, _write_library_files),
}


def _write_json(file: IO[str], content: dict[str, Any]) -> None:
  json.dump(content, file, indent=2, ensure_ascii=False)
  file.write("\n")
