"""COCO's metrics of detections, by pycocotools and Model Garden's conversions."""

import contextlib
import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Box:
  """A box of an image: found and right or wrong, or missed.

  Attributes:
    corners: ymin, xmin, ymax, xmax in pixels.
    label: Class from 1 on.
    score: Of a detection; None of an object that none has found.
    is_hit: Whether it is a detection of an object of its class, at an IoU of 0.5.
  """

  corners: tuple[float, float, float, float]
  label: int
  score: float | None
  is_hit: bool


def boxes_by_image(
  evaluation: cocoeval.COCOeval, score_threshold: float
) -> dict[int, list[Box]]:
  """Returns what was found above a score and what was missed, by `source_id`."""
  boxes: dict[int, list[Box]] = {image: [] for image in evaluation.params.imgIds}
  areas, images = len(evaluation.params.areaRng), len(evaluation.params.imgIds)
  for i, result in enumerate(evaluation.evalImgs):
    if result is None or (i // images) % areas:  # all sizes are the first
      continue
    of_image = boxes[result["image_id"]]
    hit = set()
    columns = (result["dtIds"], result["dtScores"], result["dtMatches"][0])
    for number, score, match in zip(*columns, strict=True):
      if score >= score_threshold:
        hit.add(int(match))
        box = evaluation.cocoDt.anns[number]
        of_image.append(_box(box, float(score), bool(match)))
    for number, ignored in zip(result["gtIds"], result["gtIgnore"], strict=True):
      if number not in hit and not ignored:
        of_image.append(_box(evaluation.cocoGt.anns[number], None, False))
  return boxes


def _box(annotation: Mapping[str, Any], score: float | None, is_hit: bool) -> Box:
  left, top, width, height = map(float, annotation["bbox"])
  corners = (top, left, top + height, left + width)
  return Box(corners, int(annotation["category_id"]), score, is_hit)


def best_threshold(evaluation: cocoeval.COCOeval) -> tuple[float, float]:
  """Returns the score above which F1 over all classes is highest at IoU 0.5, and F1."""
  boxes = [box for image in boxes_by_image(evaluation, 0.0).values() for box in image]
  found = sorted(
    (box for box in boxes if box.score is not None), key=lambda box: -(box.score or 0)
  )
  hits = np.cumsum([box.is_hit for box in found])
  num_objects = (hits[-1] if found else 0) + len(boxes) - len(found)
  if not found or not hits[-1]:
    return 1.0, 0.0
  f1 = 2 * hits / (np.arange(1, len(found) + 1) + num_objects)
  best = int(f1.argmax())
  return float(found[best].score or 0.0), float(f1[best])
