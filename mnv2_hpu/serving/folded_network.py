"""The network without its batch norms, for an export: folded into the convolutions."""

import tensorflow as tf
from official.vision.modeling import classification_model

from mnv2_hpu.compat import keras
from mnv2_hpu.modeling import mobilenet_v2
from mnv2_hpu.quantization import network
from mnv2_hpu.tasks import folded_inference


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
      kernel, bias = folded_inference.fold(
        backbone.get_layer(convolution), backbone.get_layer(layer.name), tf.float64
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
