"""The cross entropy of pixels, as research/deeplab weighs and averages it.

Source: `utils/train_utils.py` of research/deeplab. Model Garden's `SegmentationLoss`
resizes without aligned corners, and mines hard pixels without a ramp.
"""

from collections.abc import Sequence

import tensorflow as tf

from mnv2_hpu.modeling import resize

IGNORE_LABEL = 255
_MIN_DIVISOR = 1e-5


def at_size_of_labels(
  logits: tf.Tensor, labels: tf.Tensor, upsample_logits: bool = True
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns logits and labels of one size: that of the labels, or of the logits.

  Args:
    logits: Float `[batch, h, w, num_classes]`.
    labels: Integers `[batch, height, width, 1]`, of static height and width.
    upsample_logits: False reduces the labels instead.

  Returns:
    Logits, float32 `[batch, height, width, num_classes]`; labels, int32
    `[batch, height, width]`.
  """
  logits = tf.cast(logits, tf.float32)
  if upsample_logits:
    logits = resize.resize_bilinear(logits, (labels.shape[1], labels.shape[2]))
  else:
    labels = resize.resize_nearest(labels, (logits.shape[1], logits.shape[2]))
  return logits, tf.cast(labels[..., 0], tf.int32)


def pixel_losses(
  logits: tf.Tensor,
  labels: tf.Tensor,
  ignore_label: int = IGNORE_LABEL,
  class_weights: Sequence[float] = (),
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the cross entropy of each pixel, and whether it counts.

  Args:
    logits: float32 `[batch, height, width, num_classes]`.
    labels: int32 `[batch, height, width]`. A label that is neither a class nor ignored
      has no loss, but a gradient (towards no class), and counts.
    ignore_label: Label of pixels that do not count.
    class_weights: Factor of the loss by class; empty is 1 for each.

  Returns:
    Losses, 0 where a pixel does not count, and 1 where it counts, else 0: float32
    `[batch, height, width]`.
  """
  one_hot = tf.one_hot(labels, logits.shape[-1])
  is_valid = tf.cast(tf.not_equal(labels, ignore_label), tf.float32)
  losses = tf.nn.softmax_cross_entropy_with_logits(one_hot, logits) * is_valid
  if class_weights:
    losses *= tf.tensordot(one_hot, tf.constant(class_weights, tf.float32), 1)
  return losses, is_valid


def mean_loss(losses: tf.Tensor, num_valid: tf.Tensor) -> tf.Tensor:
  """Returns the mean over pixels that count; 0 where there are none.

  Args:
    losses: As from `pixel_losses`.
    num_valid: Number of pixels that count, a float32 scalar.
  """
  return tf.reduce_sum(losses) / tf.maximum(num_valid, _MIN_DIVISOR)


def hardest_pixels_loss(losses: tf.Tensor, share: tf.Tensor | float) -> tf.Tensor:
  """Returns the mean of the largest losses: hard pixel mining.

  All are sorted, and those behind masked: a number of pixels that changes with the step
  would change shapes.

  Args:
    losses: As from `pixel_losses`.
    share: Fraction of all pixels that is kept; of them, those without loss are not
      counted.
  """
  flat = tf.sort(tf.reshape(losses, [-1]), direction="DESCENDING")
  size = tf.cast(tf.size(flat), tf.float32)
  is_kept = tf.range(size) < tf.floor(share * size)
  kept = tf.where(is_kept, flat, 0.0)
  return mean_loss(kept, tf.reduce_sum(tf.cast(kept != 0, tf.float32)))


def hard_pixel_share(
  final_share: float, ramp_steps: int, step: tf.Tensor
) -> tf.Tensor | float:
  """Returns the fraction of pixels that a step trains on.

  Args:
    final_share: Fraction after the ramp.
    ramp_steps: Steps in which it falls linearly from 1; 0 has no ramp.
    step: Number of the step, from 0.
  """
  if not ramp_steps:
    return final_share
  ratio = tf.minimum(tf.cast(step, tf.float32) / ramp_steps, 1.0)
  return ratio * final_share + 1.0 - ratio
