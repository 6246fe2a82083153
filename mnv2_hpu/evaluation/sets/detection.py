"""Evaluates a detector on a whole set of images, each once, as COCO does."""

import dataclasses
import time
from typing import Any

import numpy as np
from official.core import config_definitions as cfg
from pycocotools import cocoeval

from mnv2_hpu.checkpoints import restore
from mnv2_hpu.evaluation.sets import restored_model
from mnv2_hpu.tasks import coco_metrics

TASK = "detection"  # as dataset.json names it

MAX_IMAGES = 24  # shown: as many with the most mistakes, and others


@dataclasses.dataclass(frozen=True)
class DrawnImage:
  """An image with what was found in it.

  Attributes:
    image: As the network saw it, uint8 `[height, width, 3]`.
    boxes: Hits, false detections and misses, in pixels of `image`.
  """

  image: np.ndarray
  boxes: list[coco_metrics.Box]

  @property
  def num_mistakes(self) -> int:
    """False detections and misses."""
    return sum(not box.is_hit for box in self.boxes)


@dataclasses.dataclass(frozen=True)
class DetectionResult:
  """What an evaluation found.

  Attributes:
    restored: Checkpoint, and which of its weights.
    input_path: Pattern of the TFRecords.
    num_images: Images evaluated.
    images_per_second: Speed, the compilation before the first batch included.
    evaluation: COCO's evaluation of all images.
    losses: Mean losses by the names under which training logs them.
    score_threshold: Score at which F1 is highest; boxes above it are drawn.
    f1: F1 there.
    images: Those with the most mistakes first, then some of the others.
  """

  restored: restore.RestoredCheckpoint
  input_path: str
  num_images: int
  images_per_second: float
  evaluation: cocoeval.COCOeval
  losses: dict[str, float]
  score_threshold: float
  f1: float
  images: list[DrawnImage]

  def metrics(self) -> dict[str, float]:
    """Returns the metrics by the names under which training logs them."""
    of_coco = coco_metrics.metrics(self.evaluation)
    return {**{name: float(v) for name, v in of_coco.items()}, **self.losses}


def evaluate(
  params: cfg.ExperimentConfig,
  checkpoint: str,
  *,
  weights: str = "ema",
  distribution_strategy: str | None = None,
) -> DetectionResult:
  """Evaluates a checkpoint on the validation data of an experiment.

  Args:
    params: Experiment that it was trained with.
    checkpoint: Prefix of its files, or a folder: its newest checkpoint.
    weights: `"ema"` or `"raw"`.
    distribution_strategy: Name of the strategy; the training's if None.

  Raises:
    UserError: If the checkpoint cannot serve, or the data cannot be read.
  """
  judged = restored_model.restore_model(
    params, checkpoint, weights, distribution_strategy
  )
  start, total = time.monotonic(), judged.num_images
  with judged.strategy.scope():
    losses = judged.task.build_metrics(training=False)

  def on_replica(inputs: Any) -> Any:
    return judged.task.validation_step(inputs, judged.model, losses)

  logs: Any = None
  for outputs in judged.run(on_replica):
    logs = judged.task.aggregate_logs(logs, outputs)
  with judged.strategy.scope():
    evaluation = judged.task.evaluate_logs(logs)
  speed = total / (time.monotonic() - start)
  threshold, f1 = coco_metrics.best_threshold(evaluation)
  return DetectionResult(
    restored=judged.restored,
    input_path=judged.data.input_path,
    num_images=total,
    images_per_second=speed,
    evaluation=evaluation,
    losses={metric.name: float(metric.result()) for metric in losses},
    score_threshold=threshold,
    f1=f1,
    images=_draw(judged, coco_metrics.boxes_by_image(evaluation, threshold)),
  )


def _draw(
  judged: restored_model.RestoredModel, boxes: dict[int, list[coco_metrics.Box]]
) -> list[DrawnImage]:
  """Returns images to look at; reads the set again, since no image was kept."""
  mistakes = {image: sum(not b.is_hit for b in found) for image, found in boxes.items()}
  order = sorted(mistakes, key=lambda image: -mistakes[image])
  worst = order[:MAX_IMAGES]
  others = order[MAX_IMAGES:]
  shown = [*worst, *others[:: max(1, len(others) // MAX_IMAGES)][:MAX_IMAGES]]
  drawn: dict[int, DrawnImage] = {}
  for images, labels in judged.task.build_inputs(judged.data):
    ids = labels["groundtruths"]["source_id"].numpy()
    for row in np.flatnonzero(np.isin(ids, shown)):
      info = labels["image_info"][row].numpy()
      pixels = np.clip((images[row].numpy() + 1) * 127.5 + 0.5, 0, 255)
      scale = np.tile(info[2], 2)
      drawn[int(ids[row])] = DrawnImage(
        pixels.astype(np.uint8),
        [
          dataclasses.replace(box, corners=tuple(np.array(box.corners) * scale))
          for box in boxes[int(ids[row])]
        ],
      )
    if len(drawn) == len(shown):
      break
  return [drawn[image] for image in shown if image in drawn]
