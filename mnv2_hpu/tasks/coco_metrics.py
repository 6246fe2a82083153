"""COCO's metrics of detections, by pycocotools and Model Garden's conversions."""

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from official.vision.evaluation import coco_utils
from pycocotools import cocoeval

MAX_DETECTIONS = 100  # per image, as COCO's
# Names of COCOeval's `stats`, as Model Garden's evaluator has them.
NAMES = (
  *("AP", "AP50", "AP75", "APs", "APm", "APl"),
  *("ARmax1", "ARmax10", "ARmax100", "ARs", "ARm", "ARl"),
)


def evaluate(
  groundtruths: Mapping[str, np.ndarray], predictions: Mapping[str, np.ndarray]
) -> cocoeval.COCOeval:
  """Returns the accumulated evaluation of all images.

  Args:
    groundtruths: `source_id`, `height`, `width`, `num_detections`, `[images]`;
      `boxes` (ymin, xmin, ymax, xmax in pixels of the image), `classes` from 1 on,
      `areas`, `is_crowds`, `[images, max_boxes, ...]`.
    predictions: `source_id`, `[images]`; `detection_boxes` in pixels of the image,
      `detection_scores`, 0 after the last one, `detection_classes` from 1 on,
      `[images, 100, ...]`.
  """
  as_batch = {name: [value] for name, value in groundtruths.items()}
  dataset = coco_utils.convert_groundtruths_to_coco_dataset(as_batch)
  as_batch = {name: [np.array(value)] for name, value in predictions.items()}
  found = [
    annotation
    for annotation in coco_utils.convert_predictions_to_coco_annotations(as_batch)
    if annotation["score"] > 0
  ]
  with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
    truth = coco_utils.COCOWrapper(eval_type="box", gt_dataset=dataset)
    evaluation = cocoeval.COCOeval(truth, truth.loadRes(found), iouType="bbox")
    evaluation.params.imgIds = list(groundtruths["source_id"])
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
  return evaluation


def metrics(
  evaluation: cocoeval.COCOeval, per_category: bool = False
) -> dict[str, Any]:
  """Returns COCO's twelve metrics by name, float32; -1 where there is nothing to count.

  Args:
    evaluation: What `evaluate` returns.
    per_category: Whether to return `AP/<class>`, `AP50/<class>` too.
  """
  stats = np.asarray(evaluation.stats, np.float32)
  values = dict(zip(NAMES, stats, strict=True))
  if per_category:
    for label, (ap, ap50) in per_class(evaluation).items():
      values |= {f"AP/{label}": np.float32(ap), f"AP50/{label}": np.float32(ap50)}
  return values


def per_class(evaluation: cocoeval.COCOeval) -> dict[int, tuple[float, float]]:
  """Returns the average precision, over all IoUs and at 0.5, by class from 1 on."""
  # [IoU, recall, class, area, max detections]; -1 where a class has no box.
  precision = evaluation.eval["precision"][:, :, :, 0, -1]
  return {
    int(label): (float(precision[:, :, i].mean()), float(precision[0, :, i].mean()))
    for i, label in enumerate(evaluation.params.catIds)
  }
