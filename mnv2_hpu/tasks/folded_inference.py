"""Inference with batch norms folded into the convolutions before them.

In inference a batch norm is `scale * x + offset` by channel. The scale goes into the
kernel of the convolution before it, the offset becomes the convolution's bias: fewer
operations over the features. Weights are read in each call and stay where they are.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from mnv2_hpu.compat import keras

# A convolution and its batch norm; the kernel and the bias of both.
Pair = tuple[keras.layers.Layer, keras.layers.Layer]
Weights = tuple[tf.Tensor | tf.Variable, tf.Tensor | tf.Variable]


@contextlib.contextmanager
def folded_batch_norms(
  model: keras.Model, weights: Sequence[Weights] | None = None
) -> Iterator[None]:
  """Inside, `model(x, training=False)` computes the same with fewer operations.

  Args:
    model: Any model, built; what is in none of its `pairs` stays as it is.
    weights: What `fold` returns of each of the `pairs`; computed if None.
  """
  found = list(pairs(model))
  if weights is None:
    weights = [fold(*pair) for pair in found]
  with contextlib.ExitStack() as calls:
    for (convolution, batch_norm), (kernel, bias) in zip(found, weights, strict=True):
      calls.enter_context(_call(convolution, _Convolve(convolution, kernel, bias)))
      calls.enter_context(_call(batch_norm, _identity))
    yield


def pairs(model: keras.Model) -> Iterator[Pair]:
  """Yields each convolution that one batch norm alone reads, and that batch norm.

  Not those of a quantized model, which rounds kernels before the batch norm.
  """
  networks = [part for part in model.submodules if isinstance(part, keras.Model)]
  outputs = {x.ref() for part in (model, *networks) for x in part.outputs or ()}
  for layer in model.submodules:
    if _is_linear_convolution(layer) and layer.output.ref() not in outputs:
      following = layer.outbound_nodes[0].outbound_layer
      if _is_inference_norm(following):
        yield layer, following


def _is_linear_convolution(layer: tf.Module) -> bool:
  """Whether a layer is a convolution alone, and one layer reads it."""
  return (
    # The exact type: a transposed convolution is a Conv2D too.
    type(layer) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    and layer.data_format == "channels_last"
    and layer.activation is keras.activations.linear
    and not layer.use_bias
    and "call" not in vars(layer)  # else it is quantized, or folded already
    and len(layer.inbound_nodes) == len(layer.outbound_nodes) == 1
  )


def _is_inference_norm(layer: keras.layers.Layer) -> bool:
  """Whether a layer is a batch norm by channel, of one input, by moving statistics."""
  return (
    type(layer) is keras.layers.BatchNormalization
    and layer.axis == [3]
    and "call" not in vars(layer)
    and len(layer.inbound_nodes) == 1
    and not layer.inbound_nodes[0].call_kwargs.get("training")
  )


def fold(
  convolution: keras.layers.Layer,
  batch_norm: keras.layers.Layer,
  dtype: tf.DType | None = None,
) -> Weights:
  """Returns the kernel and the bias of a convolution and the batch norm after it.

  Args:
    convolution: A `Conv2D` or `DepthwiseConv2D` without bias and activation.
    batch_norm: The only layer that reads it.
    dtype: In which to compute them; that of the weights if None.
  """
  depthwise = isinstance(convolution, keras.layers.DepthwiseConv2D)
  kernel = convolution.depthwise_kernel if depthwise else convolution.kernel
  kernel = tf.cast(kernel, dtype or kernel.dtype)
  mean, variance = (
    tf.cast(moving, kernel.dtype)
    for moving in (batch_norm.moving_mean, batch_norm.moving_variance)
  )
  scale = tf.math.rsqrt(variance + batch_norm.epsilon)
  if batch_norm.scale:
    scale *= tf.cast(batch_norm.gamma, kernel.dtype)
  bias = -mean * scale
  if batch_norm.center:
    bias += tf.cast(batch_norm.beta, kernel.dtype)
  # A depthwise kernel is [height, width, channels, multiplier].
  by_channel = tf.reshape(scale, kernel.shape[2:]) if depthwise else scale
  return kernel * by_channel, bias


class _Convolve:
  """What a convolution and the batch norm after it compute."""

  def __init__(
    self,
    layer: keras.layers.Layer,
    kernel: tf.Tensor | tf.Variable,
    bias: tf.Tensor | tf.Variable,
  ) -> None:
    self._layer, self._kernel, self._bias = layer, kernel, bias

  def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
    layer = self._layer
    operation: Any = tf.nn.conv2d
    if isinstance(layer, keras.layers.DepthwiseConv2D):
      operation = tf.nn.depthwise_conv2d
    features = operation(
      inputs,
      tf.cast(self._kernel, inputs.dtype),
      strides=[1, *layer.strides, 1],
      padding=layer.padding.upper(),
      dilations=layer.dilation_rate,
    )
    return tf.nn.bias_add(features, tf.cast(self._bias, inputs.dtype))


def _identity(inputs: tf.Tensor, training: Any = None, mask: Any = None) -> tf.Tensor:
  del training, mask
  return inputs


@contextlib.contextmanager
def _call(layer: keras.layers.Layer, function: Any) -> Iterator[None]:
  """Inside, a layer computes `function`."""
  layer.call = function
  try:
    yield
  finally:
    del layer.call
