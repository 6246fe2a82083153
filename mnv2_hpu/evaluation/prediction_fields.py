"""What a model says of an image file, read from the outputs of each task's program."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnv2_hpu.serving.image_classification import ClassificationModule
from mnv2_hpu.serving.object_detection import (
  BOXES,
  CLASSES,
  SCORES,
  DetectionModule,
)
from mnv2_hpu.serving.semantic_segmentation import MASKS, SIZES, SegmentationModule

TOP = 3  # classes of a prediction
MIN_FRACTION = 1e-3  # fraction of the pixels: smaller classes are not named


class Detection(NamedTuple):
  """An object that was found.

  Attributes:
    name: Name of its class.
    score: Its score, in [0, 1].
    box: ymin, xmin, ymax, xmax in pixels of the image.
    label: Index of its class.
  """

  name: str
  score: float
  box: tuple[float, float, float, float]
  label: int


class Area(NamedTuple):
  """The pixels of one class.

  Attributes:
    name: Name of the class.
    pixels: Their number.
    fraction: Fraction of the image, in [0, 1].
    label: Index of the class.
  """

  name: str
  pixels: int
  fraction: float
  label: int


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What a model says of one file.

  Attributes:
    file: Its path.
    classes: Name and probability of the likeliest classes, the best first; empty where
      the file is no image, and of other tasks.
    detections: Objects that a detector has found, the best first.
    areas: Classes that a segmenter has found, the largest first.
    mask: Class of each pixel, uint8 `[height, width]`; None of other tasks.
    error: Why it could not be read; empty where it could.
    encoded: The image as the network got it, JPEG or PNG.
  """

  file: str
  classes: tuple[tuple[str, float], ...] = ()
  detections: tuple[Detection, ...] = ()
  areas: tuple[Area, ...] = ()
  mask: np.ndarray | None = None
  error: str = ""
  encoded: bytes = b""


def _classes(
  outputs: Mapping[str, np.ndarray], row: int, names: Sequence[str], min_score: float
) -> dict[str, Any]:
  del min_score
  probabilities = outputs["probs"][row]
  best = np.argsort(-probabilities, kind="stable")[:TOP]
  return {"classes": tuple((names[i], float(probabilities[i])) for i in best)}


def _detections(
  outputs: Mapping[str, np.ndarray], row: int, names: Sequence[str], min_score: float
) -> dict[str, Any]:
  found = zip(
    outputs[CLASSES][row].astype(int).tolist(),
    outputs[SCORES][row].tolist(),
    outputs[BOXES][row].tolist(),
    strict=True,
  )
  detections = (
    Detection(names[label], score, tuple(box), label)
    for label, score, box in found
    if score > 0 and score >= min_score
  )
  return {"detections": tuple(detections)}


def _areas(
  outputs: Mapping[str, np.ndarray], row: int, names: Sequence[str], min_score: float
) -> dict[str, Any]:
  del min_score
  height, width = outputs[SIZES][row]
  mask = outputs[MASKS][row, :height, :width].copy()  # not all of the batch
  counts = np.bincount(mask.ravel(), minlength=len(names))
  areas = (
    Area(names[i], int(counts[i]), float(counts[i] / mask.size), int(i))
    for i in np.argsort(-counts, kind="stable")
    if counts[i]
  )
  return {"areas": tuple(areas), "mask": mask}


# Fields of a `Prediction` of a row of outputs, by task.
FIELDS: dict[str, Callable[..., dict[str, Any]]] = {
  ClassificationModule.task_name: _classes,
  DetectionModule.task_name: _detections,
  SegmentationModule.task_name: _areas,
}
