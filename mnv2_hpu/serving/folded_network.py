"""The network without its batch norms, for inference: folded into the convolutions.

In inference a batch norm is `scale * x + offset` by channel. The scale goes into the
kernel of the convolution before it, the offset becomes the convolution's bias.
"""

from typing import Any

import numpy as np
import tensorflow as tf
from official.vision.modeling import classification_model

from mnv2_hpu.compat import keras
from mnv2_hpu.modeling import mobilenet_v2
from mnv2_hpu.quantization import network


class _Bias(keras.layers.Layer):
  """Adds a bias by channel; TensorFlow and TFLite fuse it with the convolution."""

  def build(self, input_shape: tf.TensorShape) -> None:
    """Makes the bias."""
    self.bias = self.add_weight("bias", shape=[input_shape[-1]])

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    """Adds it."""
    return tf.nn.bias_add(inputs, self.bias)


class _FoldedMobileNetV2(mobilenet_v2.MobileNetV2):
  """MobileNetV2 with a bias in the place of each batch norm, under the same name."""

  def _batch_norm(self, name: str) -> keras.layers.Layer:
    return _Bias(name=name)


def fold_batch_norms(model: keras.Model) -> keras.Model:
  """Returns a network for inference that computes the same with fewer operations.

  Args:
    model: Model Garden's `ClassificationModel` over this project's MobileNetV2;
      another network, or a quantized one, is returned as it is.
  """
  backbone = model.backbone
  if (
    network.ranges(model)  # where kernels are rounded before the batch norm
    or type(model) is not classification_model.ClassificationModel
    or type(backbone) is not mobilenet_v2.MobileNetV2
  ):
    return model
  folded = _FoldedMobileNetV2.from_config(backbone.get_config())
  for layer in folded.layers:
    if isinstance(layer, _Bias):
      convolution = layer.name.removesuffix(f"/{mobilenet_v2.BATCH_NORM}")
      kernel, bias = _fold(
        backbone.get_layer(convolution), backbone.get_layer(layer.name)
      )
      folded.get_layer(convolution).set_weights([kernel])
      layer.set_weights([bias])
  # Of zeros, since Keras warns of an initializer that is used a second time.
  changes = {"backbone": folded, "kernel_initializer": "zeros"}
  classifier = type(model)(**{**model.get_config(), **changes})
  for layer, trained in zip(classifier.layers, model.layers, strict=True):
    if trained is not backbone:
      layer.set_weights(trained.get_weights())
  return classifier


def _fold(
  convolution: keras.layers.Layer, batch_norm: keras.layers.Layer
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
  """Returns the kernel and the bias of a convolution and the batch norm after it."""
  (kernel,) = convolution.get_weights()
  gamma, beta, mean, variance = (
    weight.astype(np.float64) for weight in batch_norm.get_weights()
  )
  scale = gamma / np.sqrt(variance + batch_norm.epsilon)
  # A depthwise kernel is [height, width, channels, 1], an ordinary one [..., channels].
  depthwise = isinstance(convolution, keras.layers.DepthwiseConv2D)
  by_channel = scale[:, np.newaxis] if depthwise else scale
  return kernel * by_channel, beta - mean * scale
