"""Bilinear resizing with aligned corners, as two matrix products.

`tf.image.resize` cannot align corners. Where sizes are static, the matrices are
constants of the graph; Gaudi then sees nothing but matrix products.
"""

from typing import TypeAlias

import numpy as np
import tensorflow as tf

from mnv2_hpu.compat import keras

Size: TypeAlias = int | tf.Tensor


def _interpolation_matrix(source: Size, target: Size) -> np.ndarray | tf.Tensor:
  """Returns the weight of each source row in each target row.

  Target row i is source row i (n - 1) / (m - 1), between two of which it interpolates.

  >>> _interpolation_matrix(2, 3).tolist()
  [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]

  Args:
    source: n, the number of source rows.
    target: m, the number of target rows.

  Returns:
    `[target, source]`; float64 where both numbers are Python's, or else float32.
  """
  if isinstance(source, int) and isinstance(target, int):
    count, maximum = np.arange, np.maximum
    n, m = float(source), float(target)
  else:
    count, maximum = tf.range, tf.maximum
    n, m = tf.cast(source, tf.float32), tf.cast(target, tf.float32)
  positions = count(m) * ((n - 1) / maximum(m - 1, 1.0))
  return maximum(1 - abs(positions[:, None] - count(n)), 0.0)


def _size(x: tf.Tensor) -> tuple[Size, Size]:
  dynamic = tf.shape(x)
  return x.shape[1] or dynamic[1], x.shape[2] or dynamic[2]


def resize_bilinear(x: tf.Tensor, size: tuple[Size, Size]) -> tf.Tensor:
  """Resizes images so that the centers of their corners stay in place.

  Equals `tf.compat.v1.image.resize_bilinear(x, size, align_corners=True)`, but keeps
  the dtype.

  Args:
    x: Floating `[batch, height, width, channels]`, of known channels.
    size: New height and width.
  """
  height, width = _size(x)
  rows, columns = size
  channels = x.shape[-1]
  if rows is not height:
    matrix = tf.cast(_interpolation_matrix(height, rows), x.dtype)
    x = tf.matmul(matrix, tf.reshape(x, [-1, height, width * channels]))
    x = tf.reshape(x, [-1, rows, width, channels])
  if columns is not width:
    matrix = tf.cast(_interpolation_matrix(width, columns), x.dtype)
    x = tf.matmul(matrix, x)
  return x


@keras.utils.register_keras_serializable(package="mnv2_hpu")
class ResizeLike(keras.layers.Layer):
  """Resizes its first input to the height and width of its second one."""

  def call(self, inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Returns `inputs[0]` at the size of `inputs[1]`, both `[batch, height, …]`."""
    x, like = inputs
    return resize_bilinear(x, _size(like))


def resize_nearest(x: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
  """Resizes label maps so that the centers of their corners stay in place.

  Equals `tf.compat.v1.image.resize_nearest_neighbor(x, size, align_corners=True)`, as
  two gathers.

  Args:
    x: `[batch, height, width, channels]`, of static height and width.
    size: New height and width.
  """
  for axis, target in enumerate(size, 1):
    scale = np.float32(x.shape[axis] - 1) / np.float32(max(target - 1, 1))
    rows = np.floor(np.arange(target, dtype=np.float32) * scale + np.float32(0.5))
    x = tf.gather(x, rows.astype(np.int32), axis=axis)
  return x
