"""What int8 costs: a quantization-aware run beside the float run that it started from.

Four programs see the same images: the float checkpoint, the quantization-aware one, its
int8 file, and the int8 file that post-training quantization makes of the float one.
"""

import dataclasses
import functools
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import config_definitions as cfg

from mnv2_hpu import files
from mnv2_hpu.checkpoints import restore
from mnv2_hpu.configs import quantization as quantization_cfg
from mnv2_hpu.errors import UserError
from mnv2_hpu.serving import (
  check_result,
  export,
  exported_models,
  metadata,
  tflite,
  verify,
)
from mnv2_hpu.serving.checks import detection, metric, segmentation
from mnv2_hpu.serving.object_detection import BOXES, CLASSES, SCORES
from mnv2_hpu.serving.semantic_segmentation import MASKS

FLOAT, QAT = "float checkpoint", "QAT checkpoint"
QAT_INT8, POST_TRAINING_INT8 = "QAT int8", "post-training int8"

_INT8 = "tflite_int8"
_MIN_IOU = 0.5  # least overlap of boxes that agree
_MIN_SCORE = 0.3  # lowest score of boxes that count

Predict = exported_models.Predict
# Number of predictions that are equal, and of all, of two programs' outputs.
Agree = Callable[[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Row:
  """One program.

  Attributes:
    metrics: In [0, 1], by name.
    agreement: Fraction of the float checkpoint's predictions that it repeats.
    megabytes: Size of the file; of a checkpoint, of its weights.
    latency_ms: Median milliseconds from an encoded image to its result.
  """

  metrics: dict[str, float]
  agreement: float
  megabytes: float
  latency_ms: float


def compare(
  params: cfg.ExperimentConfig,
  result: export.ExportResult,
  input_path: str,
  quantization: tflite.Quantization,
) -> dict[str, Row]:
  """Runs the four programs over all records; writes `check_result.COMPARISON`.

  Args:
    params: Experiment of the quantization-aware run.
    result: Its export, with `tflite_int8`.
    input_path: Pattern of TFRecords.
    quantization: How post-training quantization is done.

  Returns:
    The programs by name.

  Raises:
    UserError: If the float checkpoint cannot be read, or there are no records.
  """
  content = metadata.read(result.export_dir)
  bits = content["image_decoding"]["significant_bits"]
  kind = _KINDS[metadata.task_of(content)]
  qat, _ = export.build_module(
    params, result.restored.path, result.restored.weights, bits
  )
  float_params = quantization_cfg.float_experiment(params)
  start = params.task.init_checkpoint
  weights = restore.preferred_weights(start)
  reference, _ = export.build_module(float_params, start, weights, bits)
  models = {
    FLOAT: export.as_predict(reference, kind.program),
    QAT: export.as_predict(qat, kind.program),
    QAT_INT8: exported_models.load(result.export_dir)[_INT8],
  }
  megabytes = {
    name: round(4e-6 * sum(int(np.prod(v.shape)) for v in module.model.variables), 3)
    for name, module in ((FLOAT, reference), (QAT, qat))
  }
  megabytes[QAT_INT8] = verify.megabytes(result.export_dir, _INT8)
  with tempfile.TemporaryDirectory() as folder:
    if quantization.images:
      export.export(
        float_params,
        start,
        folder,
        weights=weights,
        formats=[_INT8],
        significant_bits=bits,
        quantization=quantization,
      )
      models[POST_TRAINING_INT8] = exported_models.load(folder)[_INT8]
      megabytes[POST_TRAINING_INT8] = verify.megabytes(folder, _INT8)
    counts = _Counts(kind.agree)
    watched = {name: counts.watch(name, run) for name, run in models.items()}
    metrics = kind.measure(watched, input_path, content)
    rows = {
      name: Row(
        metrics[name], counts.agreement(name), megabytes[name], verify.latency(run)
      )
      for name, run in models.items()
    }
  path = os.path.join(result.export_dir, check_result.COMPARISON)
  with files.atomic_write(path) as file:
    json.dump({name: dataclasses.asdict(row) for name, row in rows.items()}, file)
  return rows


def table(rows: Mapping[str, Row]) -> str:
  """Returns the table to print."""
  columns = [*next(iter(rows.values())).metrics, "as float", "MB", "ms"]
  lines = [
    "int8 beside the float run it started from:",
    f"  {'':<20}{''.join(f'{column:>10}' for column in columns)}",
  ]
  for name, row in rows.items():
    values = [f"{v:>10.4f}" for v in (*row.metrics.values(), row.agreement)]
    values += [f"{row.megabytes:>10.2f}", f"{row.latency_ms:>10.1f}"]
    lines.append(f"  {name:<20}{''.join(values)}")
  return "\n".join(lines)


def summary(
  params: cfg.ExperimentConfig,
  result: export.ExportResult,
  input_path: str,
  quantization: tflite.Quantization,
) -> str:
  """Returns the table of `compare`, or why there is none."""
  if _INT8 not in result.files:
    return f"not compared with the float run: {_INT8} is not among the formats"
  try:
    return table(compare(params, result, input_path, quantization))
  except UserError as error:
    return f"not compared with the float run: {error}"


class _Counts:
  """Counts how often programs predict what the first of them does, batch by batch."""

  def __init__(self, agree: Agree) -> None:
    self._agree = agree
    self._reference: Mapping[str, np.ndarray] = {}
    self._counts: dict[str, np.ndarray] = {}

  def watch(self, name: str, run: Predict) -> Predict:
    """Returns a program whose outputs are counted."""
    is_reference = not self._counts
    self._counts[name] = np.zeros(2, np.int64)

    def watched(encoded: tf.Tensor) -> Mapping[str, np.ndarray]:
      outputs = run(encoded)
      if is_reference:
        self._reference = outputs
      self._counts[name] += self._agree(self._reference, outputs)
      return outputs

    return watched

  def agreement(self, name: str) -> float:
    """Returns the fraction of equal predictions; 1 where there are none."""
    equal, total = self._counts[name].tolist()
    return equal / total if total else 1.0


def _same_class(
  one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> tuple[int, int]:
  classes = [outputs["probs"].argmax(-1) for outputs in (one, other)]
  return int((classes[0] == classes[1]).sum()), len(classes[0])


def _same_pixels(
  one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> tuple[int, int]:
  return int((one[MASKS] == other[MASKS]).sum()), one[MASKS].size


def _same_boxes(
  one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> tuple[int, int]:
  """Counts boxes of the first where the second has one of that class."""
  equal = total = 0
  for image in range(len(one[SCORES])):
    kept = [
      {name: out[name][image][out[SCORES][image] >= _MIN_SCORE] for name in out_names}
      for out, out_names in ((one, (BOXES, CLASSES)), (other, (BOXES, CLASSES)))
    ]
    ious = _ious(kept[0][BOXES], kept[1][BOXES])
    is_class = kept[0][CLASSES][:, None] == kept[1][CLASSES][None]
    equal += int(((ious >= _MIN_IOU) & is_class).any(axis=1).sum())
    total += len(ious)
  return equal, total


def _ious(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Returns `[n, m]` of boxes `[n, 4]` and `[m, 4]` (ymin, xmin, ymax, xmax)."""
  begin = np.maximum(one[:, None, :2], other[None, :, :2])
  end = np.minimum(one[:, None, 2:], other[None, :, 2:])
  shared = np.prod(np.maximum(end - begin, 0), axis=-1)
  areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1) for boxes in (one, other)]
  return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


def _accuracies(
  models: Mapping[str, Predict], input_path: str, content: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
  labels, probabilities = verify.predict(models, input_path, content["data"], "compare")
  return {
    name: {"accuracy": float((values.argmax(-1) == labels).mean())}
    for name, values in probabilities.items()
  }


def _metrics(
  kind: type[metric.MetricVerification],
  models: Mapping[str, Predict],
  input_path: str,
  content: Mapping[str, Any],
) -> dict[str, dict[str, float]]:
  return kind.measure(models, input_path, content, "compare")[1]


@dataclasses.dataclass(frozen=True)
class _Kind:
  """How the programs of a task are measured.

  Attributes:
    program: Function of its module that a checkpoint is run by.
    measure: Metrics by program, given the programs, records and `export.json`.
    agree: Counts equal predictions.
  """

  program: str
  measure: Callable[..., dict[str, dict[str, float]]]
  agree: Agree


def _of_metrics(kind: type[metric.MetricVerification], agree: Agree) -> _Kind:
  program = kind.programs[kind.program_of(_INT8)]
  return _Kind(program, functools.partial(_metrics, kind), agree)


_KINDS = {
  "classification": _Kind("inference_from_image_bytes", _accuracies, _same_class),
  "detection": _of_metrics(detection.DetectionVerification, _same_boxes),
  "segmentation": _of_metrics(segmentation.SegmentationVerification, _same_pixels),
}
