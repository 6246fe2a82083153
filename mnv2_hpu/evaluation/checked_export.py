"""Exports a run and checks that the export is what the run evaluated."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

from official.core import config_definitions as cfg
from official.core import task_factory

from mnv2_hpu import files, tfrecord
from mnv2_hpu.configs import quantization as quantization_cfg
from mnv2_hpu.core import run_record
from mnv2_hpu.dataloaders import encoded_examples, record_files
from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation import evaluator, int8_comparison, metrics
from mnv2_hpu.serving import export, metadata, tflite, verify
from mnv2_hpu.serving.checks import detection, metric, segmentation


def export_run(
  model_dir: str,
  export_dir: str,
  *,
  checkpoint: str | None = None,
  weights: str | None = None,
  formats: Sequence[str] | None = None,
  inference_type: str = "float32",
  calibration_images: int = 200,
  check: bool = True,
  validation_files: str | None = None,
) -> str:
  """Exports a training run and checks it on held-out images.

  Args:
    model_dir: Folder of the training run, or of imported weights.
    export_dir: Folder to write to.
    checkpoint: Checkpoint of the run; its newest if None.
    weights: `"ema"` or `"raw"`; EMA weights where the run keeps them if None.
    formats: Names in `serving.export.FORMATS`; `default_formats` if None.
    inference_type: Type of the inputs and outputs of `tflite_int8`.
    calibration_images: Training images that post-training `tflite_int8` is calibrated
      with; of a quantization-aware run it is what its own is compared with.
    check: Whether to check the export on the validation files.
    validation_files: Pattern of TFRecords for the check; the run's own if None.

  Returns:
    Lines on what was written and checked.

  Raises:
    UserError: If the run cannot be exported, or the export is not what was evaluated.
    BlockingIOError: If another process is exporting to the folder.
  """
  if formats is not None:
    export.check_formats(formats)
  with files.locked_folder(export_dir):
    params = run_record.load(model_dir)
    formats = list(export.default_formats(params) if formats is None else formats)
    if inference_type != "float32" and "tflite_int8" not in formats:
      raise UserError(
        f"--inference_type={inference_type} is that of tflite_int8, but the formats "
        f"are {', '.join(formats)}. Add --formats=tflite_int8, or leave it out."
      )
    input_path = validation_files or params.task.validation_data.input_path
    if check and input_path:
      _check_images(params, input_path)
    weights = weights or evaluator.default_weights(params)
    dataset = evaluator.dataset_info(params, model_dir)
    # A quantization-aware run needs them for the comparison alone.
    is_needed = check or not quantization_cfg.is_quantized(params.task)
    calibrates = "tflite_int8" in formats and calibration_images > 0 and is_needed
    images = calibration_images_of(params, calibration_images) if calibrates else []
    quantization = tflite.Quantization(images, inference_type)
    result = export.export(
      params,
      checkpoint or model_dir,
      export_dir,
      weights=weights,
      formats=formats,
      label_names=evaluator.label_names(params, model_dir),
      significant_bits=dataset.significant_bits if dataset else 16,
      quantization=quantization,
    )
    if not check:
      return result.summary()
    if not input_path:
      return f"{result.summary()}\nnot checked: there are no --validation_files"
    print(result.summary(), "checking it in a fresh process …", sep="\n", flush=True)
    check_task = _CHECKS[metadata.task_of(metadata.read(export_dir))]
    text = check_task(model_dir, params, result, input_path)
    if quantization_cfg.is_quantized(params.task):
      compared = int8_comparison.summary(params, result, input_path, quantization)
      text = f"{text}\n{compared}"
    return text


def _check_images(params: cfg.ExperimentConfig, input_path: str) -> None:
  """Refuses images that cannot be evaluated, before minutes of conversion."""
  task = copy.deepcopy(params.task)
  task.validation_data.override({"input_path": input_path, "num_examples": 0})
  task_factory.get_task(task).check_inputs(train=False, evaluate=True)


def calibration_images_of(params: cfg.ExperimentConfig, count: int) -> list[bytes]:
  """Returns so many encoded images of a run's training set, drawn by its seed."""
  data = params.task.train_data
  records = record_files.match_files(data.input_path)
  key = getattr(data, "image_field_key", tfrecord.IMAGE_KEY)
  fields = {"image_field_key": key}
  return encoded_examples.draw_images(records, fields, count, data.seed)


def _check_classification(
  model_dir: str,
  params: cfg.ExperimentConfig,
  result: export.ExportResult,
  input_path: str,
) -> str:
  """Compares what the formats predict with the checkpoint and the run's evaluation."""
  restored = result.restored
  logged = metrics.logged_accuracies(
    model_dir, params, restored.global_step, restored.weights
  )
  fields = metadata.read(result.export_dir)["data"]
  module = _checkpoint(params, result)
  models = {"checkpoint": export.as_predict(module)}
  _, probabilities = verify.predict(models, input_path, fields, "checkpoint")
  predicted = probabilities["checkpoint"].argmax(-1)
  checked = verify.check_export(result.export_dir, input_path, logged, predicted)
  return checked.summary(logged)


def _check_metrics(
  kind: type[metric.MetricVerification],
  model_dir: str,
  params: cfg.ExperimentConfig,
  result: export.ExportResult,
  input_path: str,
) -> str:
  """Compares the metrics of the formats with the checkpoint's."""
  del model_dir
  module = _checkpoint(params, result)
  models = {
    name: export.as_predict(module, program) for name, program in kind.programs.items()
  }
  content = metadata.read(result.export_dir)
  _, expected = kind.measure(models, input_path, content, "checkpoint")
  checked = metric.check_export(kind, result.export_dir, input_path, expected)
  return checked.summary()


# Tasks whose formats are compared by metrics alone, and how.
METRIC_CHECKS: dict[str, type[metric.MetricVerification]] = {
  "detection": detection.DetectionVerification,
  "segmentation": segmentation.SegmentationVerification,
}
_CHECKS: dict[str, Callable[..., str]] = {
  "classification": _check_classification,
  **{
    task: functools.partial(_check_metrics, kind)
    for task, kind in METRIC_CHECKS.items()
  },
}


def _checkpoint(params: cfg.ExperimentConfig, result: export.ExportResult) -> Any:
  """Returns the program of the checkpoint itself, batch norms and all."""
  module, _ = export.build_module(
    params,
    result.restored.path,
    result.restored.weights,
    metadata.read(result.export_dir)["image_decoding"]["significant_bits"],
  )
  return module
