"""Predictions of every pixel, averaged over scales and mirrored images.

Source: `predict_labels_multi_scale` of research/deeplab's `model.py`.
"""

from collections.abc import Sequence

import tensorflow as tf

from mnv2_hpu.modeling import deeplab, resize


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
  height, width = (int((side - 1) * scale + 1) for side in size)
  return height, width


def mean_probabilities(
  model: deeplab.DeepLab,
  images: tf.Tensor,
  scales: Sequence[float] = (1.0,),
  flip: bool = False,
) -> tf.Tensor:
  """Returns the probability of each class at each pixel.

  Args:
    model: Network.
    images: float32 `[batch, height, width, 3]` in [-1, 1], of static size.
    scales: Factors of height and width at which the images are looked at.
    flip: Whether the mirrored images are looked at too.

  Returns:
    float32 `[batch, height, width, num_classes]`, the mean over scales.
  """
  size = images.shape[1], images.shape[2]
  # The original first brings logits of smaller images to the grid of scale 1.
  grid = _scaled(size, 1 / model.logits_stride)
  total: tf.Tensor = 0.0
  for scale in scales:
    scaled = resize.resize_bilinear(images, _scaled(size, scale))
    for is_flipped in (False, True) if flip else (False,):
      logits = model(tf.reverse(scaled, [2]) if is_flipped else scaled, training=False)[
        "logits"
      ]
      logits = resize.resize_bilinear(logits, grid) if scale < 1 else logits
      logits = tf.reverse(logits, [2]) if is_flipped else logits
      total += tf.nn.softmax(resize.resize_bilinear(logits, size))
  return total / (len(scales) * (1 + flip))
