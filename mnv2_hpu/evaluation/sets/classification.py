"""Evaluates a classifier on a whole set of images, each once, in constant memory."""

import dataclasses
import heapq
import itertools
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from official.core import config_definitions as cfg

from mnv2_hpu.checkpoints import restore
from mnv2_hpu.dataloaders import classification_input
from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation.sets import restored_model
from mnv2_hpu.reporting.plots import Calibration, Sample
from mnv2_hpu.serving.image_classification import preprocessing_of

TASK = "classification"  # as dataset.json names it

MAX_MISTAKES = 48
_BINS = 10


@dataclasses.dataclass(frozen=True)
class Batch:
  """What the network made of some images.

  Attributes:
    images: Its input, float32 `[batch, height, width, 3]`.
    labels: True classes, `[batch]`.
    logits: `[batch, num_classes]`.
    losses: `[batch]`.
  """

  images: np.ndarray
  labels: np.ndarray
  logits: np.ndarray
  losses: np.ndarray


class Counts:
  """What is counted over a set; its size does not grow with the number of images.

  Attributes:
    confusion: Number of images by true class (row) and predicted class (column),
      `[num_classes, num_classes]`.
    top5: Images whose label has one of the five highest logits.
    loss_sum: Sum of the losses.

  Args:
    num_classes: Number of classes.
  """

  def __init__(self, num_classes: int) -> None:
    self.confusion = np.zeros([num_classes, num_classes], np.int64)
    self.top5 = 0
    self.loss_sum = 0.0
    # By bin of the prediction's probability: images, of them right, probabilities' sum.
    self._bins = np.zeros([3, _BINS])
    self._mistakes: list[tuple[float, int, Batch, int]] = []
    self._order = itertools.count()

  def add(self, batch: Batch) -> None:
    """Counts a batch.

    Raises:
      UserError: If a logit is not finite.
    """
    logits, labels = batch.logits.astype(np.float64), batch.labels
    if not np.isfinite(logits).all():
      raise UserError(
        "the network's logits are NaN or infinite: these weights cannot be evaluated. "
        "Give an earlier --checkpoint."
      )
    predicted = logits.argmax(-1)
    np.add.at(self.confusion, (labels, predicted), 1)
    of_label = np.take_along_axis(logits, labels[:, np.newaxis], -1)
    self.top5 += int(((logits > of_label).sum(-1) < 5).sum())
    self.loss_sum += float(batch.losses.sum(dtype=np.float64))
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probability = 1 / probabilities.sum(-1)
    is_right = predicted == labels
    bins = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    for row, values in enumerate((np.ones_like(probability), is_right, probability)):
      np.add.at(self._bins[row], bins, values)
    for i in np.flatnonzero(~is_right):
      self._keep_worst(float(probability[i]), batch, int(i))

  def _keep_worst(self, probability: float, batch: Batch, i: int) -> None:
    one = Batch(*(getattr(batch, f.name)[i].copy() for f in dataclasses.fields(batch)))
    entry = (probability, next(self._order), one, int(one.logits.argmax()))
    if len(self._mistakes) < MAX_MISTAKES:
      heapq.heappush(self._mistakes, entry)
    else:
      heapq.heappushpop(self._mistakes, entry)

  @property
  def num_examples(self) -> int:
    """Images counted."""
    return int(self.confusion.sum())

  @property
  def top1(self) -> int:
    """Images that are predicted rightly."""
    return int(np.trace(self.confusion))

  @property
  def calibration(self) -> Calibration:
    """How often predictions are right, by their probability."""
    counts, right, probabilities = self._bins
    divisor = np.maximum(counts, 1)
    return Calibration(counts, probabilities / divisor, right / divisor)

  def worst_mistakes(self) -> Iterator[tuple[float, int, Batch]]:
    """Yields probability, prediction, and the image of wrong ones, surest first."""
    for probability, _, one, predicted in sorted(self._mistakes, reverse=True):
      yield probability, predicted, one


@dataclasses.dataclass(frozen=True)
class Result:
  """What an evaluation found.

  Attributes:
    restored: Checkpoint, and which of its weights.
    input_path: Pattern of the TFRecords.
    counts: What was counted.
    images_per_second: Speed, the compilation before the first batch included.
    mistakes: The surest wrong predictions, as the network saw the images.
  """

  restored: restore.RestoredCheckpoint
  input_path: str
  counts: Counts
  images_per_second: float
  mistakes: list[Sample]

  @property
  def num_images(self) -> int:
    """Images evaluated."""
    return self.counts.num_examples

  def metrics(self) -> dict[str, float]:
    """Returns the metrics by the names under which training logs them."""
    counts, total = self.counts, self.counts.num_examples
    top_5 = {"top_5_accuracy": counts.top5 / total}
    return {
      "accuracy": counts.top1 / total,
      **(top_5 if len(counts.confusion) > 5 else {}),
      "validation_loss": counts.loss_sum / total,
      "calibration_error": counts.calibration.error,
    }


def evaluate(
  params: cfg.ExperimentConfig,
  checkpoint: str,
  *,
  weights: str = "ema",
  distribution_strategy: str | None = None,
) -> Result:
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
  counts = Counts(params.task.model.num_classes)
  start = time.monotonic()
  for batch in _run(judged):
    counts.add(batch)
  speed = counts.num_examples / (time.monotonic() - start)
  preprocessing = preprocessing_of(params)
  mistakes = [
    Sample(
      np.clip(preprocessing.denormalize(one.images) + 0.5, 0, 255).astype(np.uint8),
      int(one.labels),
      predicted,
      probability,
    )
    for probability, predicted, one in counts.worst_mistakes()
  ]
  return Result(judged.restored, judged.data.input_path, counts, speed, mistakes)


def _run(judged: restored_model.RestoredModel) -> Iterator[Batch]:
  """Yields what the network makes of each batch, without the padding of the last."""

  def on_replica(inputs: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, ...]:
    return *inputs, *judged.task.logits_and_losses(*inputs, judged.model)

  for outputs in judged.run(on_replica):
    images, labels, logits, losses = (np.concatenate(values) for values in outputs)
    real = labels != classification_input.PADDING_LABEL
    yield Batch(images[real], labels[real], logits[real], losses[real])
