"""Evaluates a segmenter on a whole set of images, each once, in constant memory."""

import dataclasses
import heapq
import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import config_definitions as cfg

from mnv2_hpu.checkpoints import restore
from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation.sets import restored_model
from mnv2_hpu.tasks import segmentation_metrics

TASK = "segmentation"  # as dataset.json names it

MAX_IMAGES = 24  # kept to be shown: those with the lowest IoU


@dataclasses.dataclass(frozen=True)
class DrawnImage:
  """An image with what was predicted of it.

  Attributes:
    image: Without the padding, uint8 `[height, width, 3]`.
    truth: True classes, uint8 `[height, width]`.
    prediction: Predicted classes, uint8 `[height, width]`.
    iou: Mean IoU of the classes that the image or its prediction has, in [0, 1].
  """

  image: np.ndarray
  truth: np.ndarray
  prediction: np.ndarray
  iou: float


@dataclasses.dataclass(frozen=True)
class SegmentationResult:
  """What an evaluation found.

  Attributes:
    restored: Checkpoint, and which of its weights.
    input_path: Pattern of the TFRecords.
    num_images: Images evaluated.
    images_per_second: Speed, the compilation before the first batch included.
    confusion: Pixels by true class (row) and predicted class (column), int64
      `[num_classes, num_classes]`.
    loss: Mean over the pixels, weight decay included.
    ignore_label: Label of pixels that do not count.
    images: Those with the lowest IoU, the lowest first.
  """

  restored: restore.RestoredCheckpoint
  input_path: str
  num_images: int
  images_per_second: float
  confusion: np.ndarray
  loss: float
  ignore_label: int
  images: list[DrawnImage]

  def metrics(self) -> dict[str, float]:
    """Returns the metrics by the names under which training logs them.

    `pixel_accuracy` is not logged.
    """
    return {
      "mean_iou": segmentation_metrics.mean_iou(self.confusion),
      "pixel_accuracy": segmentation_metrics.pixel_accuracy(self.confusion),
      "validation_loss": self.loss,
    }


class Counts:
  """What is counted over a set; its size does not grow with the number of images.

  Attributes:
    confusion: Pixels by true class (row) and predicted class (column), int64
      `[num_classes, num_classes]`.

  Args:
    num_classes: Number of classes.
    ignore_label: Label of pixels that do not count.
  """

  def __init__(self, num_classes: int, ignore_label: int) -> None:
    self.confusion = np.zeros([num_classes, num_classes], np.int64)
    self._ignore_label = ignore_label
    self._worst: list[tuple[float, int, DrawnImage]] = []
    self._order = itertools.count()

  def add(self, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
    """Counts an image; one without a pixel that counts, as padding is, changes nothing.

    Args:
      image: The network's input, float32 `[height, width, 3]`.
      truth: True classes, uint8 `[height, width]`.
      prediction: Predicted classes, integers `[height, width]`.
    """
    confusion = segmentation_metrics.confusion(
      truth, prediction, len(self.confusion), self._ignore_label
    )
    if not confusion.any():
      return
    self.confusion += confusion
    iou = segmentation_metrics.mean_iou(confusion)
    if len(self._worst) == MAX_IMAGES and iou >= -self._worst[0][0]:
      return
    drawn = _without_padding(image, truth, prediction, iou)
    heapq.heappush(self._worst, (-iou, next(self._order), drawn))
    if len(self._worst) > MAX_IMAGES:
      heapq.heappop(self._worst)

  def worst(self) -> list[DrawnImage]:
    """Returns the images with the lowest IoU, the lowest first."""
    return [drawn for _, _, drawn in sorted(self._worst, reverse=True)]


def _without_padding(
  image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, iou: float
) -> DrawnImage:
  # Padding alone is exactly 0: that would be half a pixel value.
  height, width = (
    np.flatnonzero((image != 0).any(axis=axes))[-1] + 1 for axes in ((1, 2), (0, 2))
  )
  image, truth, prediction = (x[:height, :width] for x in (image, truth, prediction))
  pixels = np.clip((image + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
  return DrawnImage(pixels, truth.copy(), prediction.astype(np.uint8), iou)


def evaluate(
  params: cfg.ExperimentConfig,
  checkpoint: str,
  *,
  weights: str = "ema",
  distribution_strategy: str | None = None,
) -> SegmentationResult:
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
  ignore_label = params.task.losses.ignore_label
  counts = Counts(params.task.model.num_classes, ignore_label)
  start, total = time.monotonic(), judged.num_images
  loss_sum = num_pixels = 0.0
  for images, truths, predictions, losses, num_valid in _run(judged):
    for one in zip(images, truths, predictions, strict=True):
      counts.add(*one)
    loss_sum += float(losses @ num_valid)
    num_pixels += float(num_valid.sum())
  loss = loss_sum / max(num_pixels, 1.0)
  if not np.isfinite(loss):
    raise UserError(
      "the network's loss is NaN or infinite: these weights cannot be evaluated. Give "
      "an earlier --checkpoint."
    )
  return SegmentationResult(
    restored=judged.restored,
    input_path=judged.data.input_path,
    num_images=total,
    images_per_second=total / (time.monotonic() - start),
    confusion=counts.confusion,
    loss=loss,
    ignore_label=ignore_label,
    images=counts.worst(),
  )


def _run(judged: restored_model.RestoredModel) -> Iterator[list[np.ndarray]]:
  """Yields images, truths, predictions; losses and pixels of each replica."""

  def on_replica(inputs: Any) -> tuple[tf.Tensor, ...]:
    images, labels = inputs
    predictions, loss, num_valid = judged.task.predictions_and_loss(
      images, labels, judged.model
    )
    return images, labels["masks"][..., 0], predictions, loss[None], num_valid[None]

  for outputs in judged.run(on_replica):
    yield [np.concatenate(values) for values in outputs]
