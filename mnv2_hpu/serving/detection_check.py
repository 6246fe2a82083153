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
# Maximum difference of either metric from the checkpoint's: of the same program, of
# TFLite's other suppression of boxes, and of weights and activations of 8 bits.
TOLERANCES = {"saved_model": 0.002, "tflite": 0.02, "tflite_float16": 0.02}
QUANTIZED_TOLERANCE = 0.05

_BATCH_SIZE = 16
_MAX_BOXES = 1000  # in an image; any more are left out


@dataclasses.dataclass(frozen=True)
class DetectionVerification:
  """What came out.

  Attributes:
    input_path: Pattern of the TFRecords.
    num_images: Number of images.
    metrics: COCO's `METRICS` by format, in [0, 1]; -1 where there is no box.
    checkpoint: Those of the checkpoint itself; empty if unknown.
    megabytes: Size, by format.
    latency_ms: Median milliseconds from an encoded image to its boxes, by format.
  """

  input_path: str
  num_images: int
  metrics: dict[str, dict[str, float]]
  checkpoint: dict[str, float]
  megabytes: dict[str, float]
  latency_ms: dict[str, float]

  def summary(self) -> str:
    """Returns the table to print."""
    rows = {"checkpoint": self.checkpoint, **self.metrics}
    lines = [
      f"checked in a fresh process on {self.num_images:,} images: COCO's mAP (IoU 0.5 "
      "to 0.95), and that at IoU 0.5",
      f"  {'format':<16}{'AP':>8}{'AP50':>8}{'MB':>8}{'ms':>8}",
    ]
    for name, values in rows.items():
      if values:
        lines.append(
          f"  {name:<16}{values['AP']:>8.4f}{values['AP50']:>8.4f}"
          f"{self.megabytes.get(name, 0):>8.2f}{self.latency_ms.get(name, 0):>8.1f}"
        )
    return "\n".join(lines)


def check_export(
  export_dir: str, input_path: str, checkpoint: Mapping[str, float]
) -> DetectionVerification:
  """Verifies an export in a process of its own.

  Args:
    export_dir: Folder that `serving.export` wrote.
    input_path: Pattern of the TFRecords to run it over.
    checkpoint: `METRICS` of the checkpoint itself on these images.

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
  export_dir: str, input_path: str, checkpoint: dict[str, float]
) -> DetectionVerification:
  """Runs an export over records; writes `check_result.RESULT`.

  Args:
    export_dir: Folder that `serving.export` wrote.
    input_path: Pattern of the TFRecords to run it over.
    checkpoint: `METRICS` of the checkpoint itself on these images.

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
    UserError: If one differs by more than `TOLERANCES` or `QUANTIZED_TOLERANCE`.
  """
  for name, values in result.metrics.items():
    allowed = TOLERANCES.get(name, QUANTIZED_TOLERANCE)
    for metric, expected in result.checkpoint.items():
      if abs(values[metric] - expected) > allowed:
        raise UserError(
          f"what was exported is not what was evaluated: {metric} of "
          f"{result.num_images} images is {values[metric]:.4f} of {name} and "
          f"{expected:.4f} of the checkpoint; they may differ by {allowed}. Do not use "
          "this export. "
          + (
            "Calibrate with more images (--calibration_images)."
            if name == "tflite_int8"
            else "Export again, or report this with the run's params.yaml."
          )
        )


def read_result(export_dir: str) -> DetectionVerification:
  """Returns what the check of an export found.

  Raises:
    UserError: If its file is missing or cannot be read.
  """
  return check_result.read_as(DetectionVerification, export_dir)
