"""Reloads an exported detector in a fresh process and compares its mAP.

`check.json`, which is written into the folder of the export, holds the result.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mnv2_hpu import files
from mnv2_hpu.dataloaders import detection_input, record_files
from mnv2_hpu.errors import UserError
from mnv2_hpu.progress import Progress
from mnv2_hpu.serving import check_result, exported_models, verify
from mnv2_hpu.serving.object_detection import BOXES, CLASSES, SCORES
from mnv2_hpu.tasks import coco_metrics

METRICS = ("AP", "AP50")
# What formats are compared with: the checkpoint, and that with TFLite's suppression of
# boxes, which is another (`object_detection.DetectionModule`).
CHECKPOINT, AS_TFLITE = "checkpoint", "checkpoint as TFLite"
# Maximum difference of either metric from that of the checkpoint with the same
# suppression: of formats that compute in floats, and with 8 bits.
FLOAT_TOLERANCE, QUANTIZED_TOLERANCE = 0.005, 0.05
# What TFLite's suppression may cost before people are told: much, where a detector
# hardly tells its classes apart.
SUPPRESSION_COST = 0.02

_BATCH_SIZE = 16
_MAX_BOXES = 1000  # in an image; any more are left out


@dataclasses.dataclass(frozen=True)
class DetectionVerification:
  """What came out.

  Attributes:
    input_path: Pattern of the TFRecords.
    num_images: Number of images.
    metrics: COCO's `METRICS` by format, in [0, 1]; -1 where there is no box.
    checkpoint: Those of `CHECKPOINT` and of `AS_TFLITE`.
    megabytes: Size, by format.
    latency_ms: Median milliseconds from an encoded image to its boxes, by format.
  """

  input_path: str
  num_images: int
  metrics: dict[str, dict[str, float]]
  checkpoint: dict[str, dict[str, float]]
  megabytes: dict[str, float]
  latency_ms: dict[str, float]

  def summary(self) -> str:
    """Returns the table to print."""
    rows = {**self.checkpoint, **self.metrics}
    lines = [
      f"checked in a fresh process on {self.num_images:,} images: COCO's mAP (IoU 0.5 "
      "to 0.95), and that at IoU 0.5",
      f"  {'format':<20}{'AP':>8}{'AP50':>8}{'MB':>8}{'ms':>8}",
    ]
    for name, values in rows.items():
      line = f"  {name:<20}{values['AP']:>8.4f}{values['AP50']:>8.4f}"
      if name in self.megabytes:
        line += f"{self.megabytes[name]:>8.2f}{self.latency_ms[name]:>8.1f}"
      lines.append(line)
    ap50 = [self.checkpoint[name]["AP50"] for name in (CHECKPOINT, AS_TFLITE)]
    if (cost := ap50[0] - ap50[1]) > SUPPRESSION_COST:
      lines.append(
        f"  note: TFLite's suppression of boxes costs {cost:.3f} of AP50: the "
        "detector hardly tells its classes apart. Train it longer, or use the "
        "SavedModel."
      )
    return "\n".join(lines)


def check_export(
  export_dir: str, input_path: str, checkpoint: Mapping[str, dict[str, float]]
) -> DetectionVerification:
  """Verifies an export in a process of its own.

  Args:
    export_dir: Folder that `serving.export` wrote.
    input_path: Pattern of the TFRecords to run it over.
    checkpoint: `METRICS` of `CHECKPOINT` and `AS_TFLITE` on these images.

  Raises:
    UserError: If the export cannot be run, or a metric differs by more than it may
      (`compare`).
  """
  result = verify.in_fresh_process(
    export_dir, verify_detector, input_path, dict(checkpoint)
  )
  compare(result)
  return result


def verify_detector(
  export_dir: str, input_path: str, checkpoint: dict[str, dict[str, float]]
) -> DetectionVerification:
  """Runs an export over records; writes `check_result.RESULT`.

  Args:
    export_dir: Folder that `serving.export` wrote.
    input_path: Pattern of the TFRecords to run it over.
    checkpoint: `METRICS` of `CHECKPOINT` and `AS_TFLITE` on these images.

  Raises:
    UserError: If the folder holds no export, or there are no records.
  """
  models = exported_models.load(export_dir)
  truth, predictions = predict(models, input_path)
  result = DetectionVerification(
    input_path,
    len(truth["source_id"]),
    {name: evaluate(truth, found) for name, found in predictions.items()},
    checkpoint,
    {name: verify.megabytes(export_dir, name) for name in models},
    {name: verify.latency(run) for name, run in models.items()},
  )
  with files.atomic_write(os.path.join(export_dir, check_result.RESULT)) as file:
    json.dump(dataclasses.asdict(result), file, indent=2)
  return result


def predict(
  models: Mapping[str, exported_models.Predict],
  input_path: str,
  description: str = "check export",
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
  """Runs every format over all records.

  Args:
    models: Formats, as `exported_models.load` returns them.
    input_path: Pattern of TFRecords.
    description: Name of the work, for the progress.

  Returns:
    Groundtruths and, by format, predictions, as `coco_metrics.evaluate` takes them.

  Raises:
    UserError: If there are no records.
  """
  records = record_files.match_files(input_path)
  total = record_files.count_examples(records)
  truths: list[Any] = []
  outputs: dict[str, list[Any]] = {name: [] for name in models}
  dataset = detection_input.read_groundtruths(records, _MAX_BOXES).batch(_BATCH_SIZE)
  done = 0
  with Progress(total, "image", description) as progress:
    for encoded, truth in dataset:
      truths.append(tf.nest.map_structure(lambda value: value.numpy(), truth))
      for name, run in models.items():
        outputs[name].append(run(encoded))
      done += len(encoded)
      progress.update_to(done)
  groundtruths = _concatenate(truths)
  found = {}
  for name, batches in outputs.items():
    detected = _concatenate(batches)
    found[name] = {
      "source_id": groundtruths["source_id"],
      "detection_boxes": detected[BOXES],
      "detection_scores": detected[SCORES],
      "detection_classes": detected[CLASSES].astype(np.int32) + 1,
    }
  return groundtruths, found


def _concatenate(batches: list[Any]) -> dict[str, np.ndarray]:
  return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


def evaluate(
  truth: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]
) -> dict[str, float]:
  """Returns `METRICS` of what `predict` returns for a format."""
  values = coco_metrics.metrics(coco_metrics.evaluate(truth, found))
  return {name: float(values[name]) for name in METRICS}


def compare(result: DetectionVerification) -> None:
  """Compares the metrics of the formats with the checkpoint's.

  Raises:
    UserError: If one differs by more than it may: `FLOAT_TOLERANCE`, or
      `QUANTIZED_TOLERANCE`.
  """
  for name, values in result.metrics.items():
    is_tflite = name != "saved_model"
    same = AS_TFLITE if is_tflite else CHECKPOINT
    is_quantized = name in check_result.QUANTIZED
    allowed = QUANTIZED_TOLERANCE if is_quantized else FLOAT_TOLERANCE
    _check_gap(result, name, values, same, allowed)


def _check_gap(
  result: DetectionVerification,
  name: str,
  values: Mapping[str, float],
  reference: str,
  allowed: float,
) -> None:
  for metric, expected in result.checkpoint[reference].items():
    if abs(values[metric] - expected) > allowed:
      hint = "Export again, or report this with the run's params.yaml."
      if name == "tflite_int8":
        hint = "Calibrate it with more images (--calibration_images)."
      raise UserError(
        f"what was exported is not what was evaluated: {metric} of "
        f"{result.num_images} images is {values[metric]:.4f} of {name} and "
        f"{expected:.4f} of the {reference}; they may differ by {allowed}. Do not use "
        f"this export. {hint}"
      )


def read_result(export_dir: str) -> DetectionVerification:
  """Returns what the check of an export found.

  Raises:
    UserError: If its file is missing or cannot be read.
  """
  return check_result.read_as(DetectionVerification, export_dir)
