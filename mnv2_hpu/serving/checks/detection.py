"""The mAP of an exported detector, to be compared with its checkpoint's."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mnv2_hpu.dataloaders import detection_input, record_files
from mnv2_hpu.progress import Progress
from mnv2_hpu.serving import exported_models
from mnv2_hpu.serving.checks import metric
from mnv2_hpu.serving.checks.metric import CHECKPOINT
from mnv2_hpu.serving.object_detection import BOXES, CLASSES, SCORES
from mnv2_hpu.tasks import coco_metrics

METRICS = ("AP", "AP50")
# The checkpoint with TFLite's suppression of boxes, which is another
# (`object_detection.DetectionModule`).
AS_TFLITE = "checkpoint as TFLite"
# What TFLite's suppression may cost before people are told: much, where a detector
# hardly tells its classes apart.
SUPPRESSION_COST = 0.02

_BATCH_SIZE = 16
_MAX_BOXES = 1000  # in an image; any more are left out


@dataclasses.dataclass(frozen=True)
class DetectionVerification(metric.MetricVerification):
  """What came out: COCO's `METRICS`."""

  title = "COCO's mAP (IoU 0.5 to 0.95), and that at IoU 0.5"
  programs: ClassVar[dict[str, str]] = {
    CHECKPOINT: "inference_from_image_bytes",
    AS_TFLITE: "as_tflite",
  }

  @classmethod
  def _measure(
    cls,
    models: Mapping[str, exported_models.Predict],
    input_path: str,
    content: Mapping[str, Any],
    description: str,
  ) -> tuple[int, dict[str, dict[str, float]]]:
    del content
    truth, predictions = predict(models, input_path, description)
    found = {name: evaluate(truth, values) for name, values in predictions.items()}
    return len(truth["source_id"]), found

  @staticmethod
  def program_of(format_name: str) -> str:
    """See `MetricVerification`: files of TFLite suppress boxes as TFLite does."""
    return CHECKPOINT if format_name == "saved_model" else AS_TFLITE

  def notes(self) -> list[str]:
    """Returns what TFLite's suppression costs, where it is much."""
    ap50 = [self.checkpoint[name]["AP50"] for name in (CHECKPOINT, AS_TFLITE)]
    if (cost := ap50[0] - ap50[1]) <= SUPPRESSION_COST:
      return []
    return [
      f"TFLite's suppression of boxes costs {cost:.3f} of AP50: the detector hardly "
      "tells its classes apart. Train it longer, or use the SavedModel."
    ]


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
      truths.append({name: value.numpy() for name, value in truth.items()})
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
