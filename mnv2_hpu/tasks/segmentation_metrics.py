"""Intersection over union, counted as `eval.py` of research/deeplab counts it."""

from typing import Any

import numpy as np
import tensorflow as tf

from mnv2_hpu.compat import keras
from mnv2_hpu.modeling.segmentation_loss import IGNORE_LABEL


def class_ious(confusion: np.ndarray) -> np.ndarray:
  """Returns the IoU of each class; NaN where the truth has no pixel of it.

  Args:
    confusion: Pixels by true class (row) and predicted class (column),
      `[num_classes, num_classes]`.
  """
  true_positives = np.diag(confusion).astype(np.float64)
  in_truth = confusion.sum(axis=1)
  union = in_truth + confusion.sum(axis=0) - true_positives
  ious = true_positives / np.maximum(union, 1)
  return np.where(in_truth > 0, ious, np.nan)


def mean_iou(confusion: np.ndarray) -> float:
  """Returns what `MeanIoU` does, of a confusion as `class_ious` takes it."""
  true_positives = np.diag(confusion).astype(np.float64)
  union = confusion.sum(axis=0) + confusion.sum(axis=1) - true_positives
  is_present = union > 0
  ious = true_positives[is_present] / union[is_present]
  return float(ious.mean()) if ious.size else 0.0


def pixel_accuracy(confusion: np.ndarray) -> float:
  """Returns the fraction of the pixels that are predicted rightly, 0 of none."""
  return float(np.trace(confusion) / max(confusion.sum(), 1))


def confusion(
  labels: np.ndarray,
  predictions: np.ndarray,
  num_classes: int,
  ignore_label: int = IGNORE_LABEL,
) -> np.ndarray:
  """Counts pixels by true class (row) and predicted class (column).

  >>> confusion(np.array([0, 1, 1, 255]), np.array([0, 1, 0, 1]), 2).tolist()
  [[1, 0], [1, 1]]

  Args:
    labels: True classes, integers of any shape; what is no class does not count.
    predictions: Predicted classes, integers of the same shape, in [0, num_classes).
    num_classes: Number of classes.
    ignore_label: Label of pixels that do not count.

  Returns:
    int64 `[num_classes, num_classes]`.
  """
  counts = (labels < num_classes) & (labels != ignore_label)
  cells = labels[counts].astype(np.int64) * num_classes + predictions[counts]
  return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


@keras.utils.register_keras_serializable(package="mnv2_hpu")
class MeanIoU(keras.metrics.Metric):
  """The mean IoU of the classes that the truth or the predictions have.

  A class that is only predicted counts as 0; one that is nowhere is left out. Model
  Garden's validation averages over all classes, the absent ones as 0.

  Attributes:
    confusion: Pixels by true class (row) and predicted class (column), int64
      `[num_classes, num_classes]`: float32 stops counting at 16.8 million.
  """

  def __init__(
    self,
    num_classes: int,
    ignore_label: int = IGNORE_LABEL,
    name: str = "mean_iou",
    **kwargs: Any,
  ) -> None:
    """Starts with no pixel.

    Args:
      num_classes: Number of classes.
      ignore_label: Label of pixels that do not count.
      name: Name of the metric.
      **kwargs: Keyword arguments of `keras.metrics.Metric`.
    """
    super().__init__(name=name, **kwargs)
    self._num_classes = num_classes
    self._ignore_label = ignore_label
    self.confusion = self.add_weight(
      "confusion", [num_classes, num_classes], dtype=tf.int64, initializer="zeros"
    )

  def update_state(self, labels: tf.Tensor, predictions: tf.Tensor) -> None:
    """Counts pixels.

    Args:
      labels: True classes, integers of any shape; what is no class does not count.
      predictions: Predicted classes, integers of the same shape.
    """
    labels, predictions = (
      tf.reshape(tf.cast(x, tf.int64), [-1]) for x in (labels, predictions)
    )
    size = self._num_classes**2
    is_class = (labels >= 0) & (labels < self._num_classes)
    counts = is_class & (labels != self._ignore_label)
    # Those that do not count all fall into one cell more, which is dropped.
    cells = tf.where(counts, labels * self._num_classes + predictions, size)
    counted = tf.math.bincount(
      tf.cast(cells, tf.int32), minlength=size + 1, maxlength=size + 1, dtype=tf.int64
    )
    self.confusion.assign_add(
      tf.reshape(counted[:size], [self._num_classes, self._num_classes])
    )

  def result(self) -> tf.Tensor:
    """Returns the mean, a float32 scalar; 0 before any pixel."""
    confusion = tf.cast(self.confusion, tf.float64)
    true_positives = tf.linalg.diag_part(confusion)
    union = (
      tf.reduce_sum(confusion, axis=0) + tf.reduce_sum(confusion, axis=1)
    ) - true_positives
    num_present = tf.reduce_sum(tf.cast(union > 0, tf.float64))
    total = tf.reduce_sum(tf.math.divide_no_nan(true_positives, union))
    return tf.cast(tf.math.divide_no_nan(total, num_present), tf.float32)

  def reset_state(self) -> None:
    """Forgets all pixels; Keras itself sets scalars alone to zero."""
    self.confusion.assign(tf.zeros_like(self.confusion))

  def get_config(self) -> dict[str, Any]:
    """Returns the arguments of the constructor."""
    config = {"num_classes": self._num_classes, "ignore_label": self._ignore_label}
    return {**super().get_config(), **config}
