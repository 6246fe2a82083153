"""Rounding to eight bits as TFLite's int8 does, with gradients that pass it through.

Sources: arXiv 1712.05877 (section 3) and TFLite's specification of int8
(https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec).
The operations are TensorFlow's, from which TFLite's converter reads the ranges.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mnv2_hpu.modeling import stateless_dropout

RANGE_DECAY = 0.999  # decay of the moving ranges, reached after 9,000 steps
INITIAL_RANGE = (-6.0, 6.0)  # until a training has seen activations
_MIN_SPAN = 1e-3  # smallest range: activations that are all 0 have a scale too
# Channels of nearly nothing count as this fraction of the kernel's largest: the scale
# of their bias, of 32 bits, would be too small otherwise.
_MIN_CHANNEL = 1e-4
_MIN_KERNEL = 1e-12  # smallest weight that is not as good as 0


def quantize_kernel(kernel: tf.Tensor, is_depthwise: bool = False) -> tf.Tensor:
  """Returns a kernel rounded by output channel, symmetrically, as int8 holds it.

  A batch norm after it only multiplies the channels' scales.

  Args:
    kernel: float32 `[height, width, inputs, channels]`; a depthwise one is `[height,
      width, channels, 1]`.
    is_depthwise: Whether it is a depthwise one.
  """
  shape = kernel.shape
  if is_depthwise:
    kernel = tf.reshape(kernel, [*shape[:2], 1, shape[2]])
  largest = tf.reduce_max(tf.abs(kernel), axis=[0, 1, 2])
  largest = tf.maximum(largest, _MIN_CHANNEL * tf.reduce_max(largest))
  largest = tf.stop_gradient(tf.maximum(largest, _MIN_KERNEL))
  rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(
    kernel, -largest, largest, narrow_range=True
  )
  return tf.reshape(rounded, shape) if is_depthwise else rounded


def quantize_matrix(kernel: tf.Tensor) -> tf.Tensor:
  """Returns a matrix rounded as a whole: TFLite's FULLY_CONNECTED has one scale."""
  largest = tf.maximum(tf.reduce_max(tf.abs(kernel)), _MIN_KERNEL)
  largest = tf.stop_gradient(largest)
  return tf.quantization.fake_quant_with_min_max_vars(
    kernel, -largest, largest, narrow_range=True
  )


def quantize_pixels(
  pixels: tf.Tensor, normalize: Callable[[tf.Tensor], tf.Tensor]
) -> tf.Tensor:
  """Returns what a network takes of pixels, computed with ranges that TFLite knows.

  Args:
    pixels: float32 `[batch, height, width, 3]`, from 0 to 255.
    normalize: Scales and shifts them, by channel.
  """
  with tf.init_scope():  # numbers, of which the graph has constants
    black = np.asarray(normalize(tf.zeros([1, 1, 1, 3])))
    span = np.asarray(normalize(tf.fill([1, 1, 1, 3], 255.0))) - black
  pixels = tf.quantization.fake_quant_with_min_max_vars(pixels, 0.0, 255.0)
  scaled = pixels * (span / 255)
  return tf.quantization.fake_quant_with_min_max_vars(scaled, 0.0, span.max()) + black


class Range:
  """A moving range of activations, in two variables.

  In training it moves to the smallest and largest values of each batch, and its first
  batch sets it.

  Attributes:
    low: Smallest value that is not clipped, at most 0.
    high: Largest one, above 0.
  """

  def __init__(self, name: str) -> None:
    """Creates the variables `<name>_low` and `<name>_high`."""
    self.low, self.high = (
      tf.Variable(
        value,
        trainable=False,
        name=f"{name}_{end}",
        # As the statistics of batch norms: each replica has its own.
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.MEAN,
      )
      for end, value in zip(("low", "high"), INITIAL_RANGE, strict=True)
    )

  def __call__(self, x: tf.Tensor) -> tf.Tensor:
    """Returns activations rounded to the 256 values of the range."""
    step = stateless_dropout.current_step()
    if step is None:
      ends = self.low, self.high
    else:
      low, high = (tf.reduce_min(x), tf.reduce_max(x))
      ends = (
        self._move(self.low, tf.minimum(low, 0.0), step),
        self._move(self.high, tf.maximum(high, _MIN_SPAN), step),
      )
    return tf.quantization.fake_quant_with_min_max_vars(x, *ends)

  @staticmethod
  def _move(end: tf.Variable, value: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    steps = tf.cast(step, tf.float32)
    decay = tf.minimum(steps / (9.0 + steps), RANGE_DECAY)
    moved = tf.stop_gradient(end * decay + value * (1.0 - decay))
    end.assign(moved)
    return moved
