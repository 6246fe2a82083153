"""DeepLabv3 and v3+ (arXiv 1706.05587, 1802.02611) as research/deeplab computes them.

The networks of MobileNetV2's paper (arXiv 1801.04381, section 6.3) are those without
decoder and with or without ASPP.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from official.modeling import tf_utils

from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError, did_you_mean
from mnv2_hpu.modeling import precision, resize
from mnv2_hpu.modeling.mobilenet_v2 import BATCH_NORM

CONVOLUTIONS = ("none", "ordinary", "separable")
ATROUS_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}  # by output stride
CHANNELS = 256  # output channels of each branch, the projection and the decoder
LOW_LEVEL_CHANNELS = 48
DECODER_STRIDE = 4
LOW_LEVEL = "2/depthwise"  # slim's layer_4/depthwise_output, at stride 4
LOGITS = "logits/semantic"  # scope of the last layer


@dataclasses.dataclass(frozen=True)
class Norm:
  """Batch norm and activation of the head.

  Attributes:
    activation: After every convolution but the logits. With `relu6`, for quantization,
      the image pooling keeps `relu`.
    norm_momentum: Momentum of the moving batch statistics.
    norm_epsilon: Epsilon added to the batch variance.
    use_sync_bn: Whether batch statistics are those of all replicas.
  """

  activation: str = "relu"
  norm_momentum: float = 0.9997
  norm_epsilon: float = 1e-5
  use_sync_bn: bool = False


def _output_stride(backbone: keras.Model) -> int:
  return 2 ** max(int(key) for key in backbone.output_specs if "/" not in key)


def _rates(atrous_rates: Sequence[int] | None, output_stride: int) -> Sequence[int]:
  if atrous_rates is None:
    if output_stride not in ATROUS_RATES:
      raise UserError(
        f"The backbone's output stride is {output_stride}, for which no atrous rates "
        f"are published. Set output_stride to {' or '.join(map(str, ATROUS_RATES))}, "
        "or choose atrous_rates."
      )
    return ATROUS_RATES[output_stride]
  if not atrous_rates or min(atrous_rates) < 1:
    raise UserError(
      f"atrous_rates is {list(atrous_rates)}; it must be one or more positive "
      "integers, or None, which is 6, 12, 18 at output stride 16 and 12, 24, 36 at 8. "
      "For no atrous branches set aspp = 'none'."
    )
  return atrous_rates


@keras.utils.register_keras_serializable(package="mnv2_hpu")
class DeepLab(keras.Model):
  """A backbone, its features at several rates, and the logits of each place.

  Maps images `[batch, height, width, 3]` in [-1, 1], of any size, to
  `{"logits": float32 [batch, h, w, num_classes]}`, before upsampling: at the output
  stride of the backbone, or at 4 with a decoder. Layers are named after the scopes of
  research/deeplab: `image_pooling`, `aspp1_depthwise/BatchNorm`, `logits/semantic`.
  Source: its `model.py`.

  Attributes:
    backbone: The network below the head.
    logits_stride: Size of the images / size of the logits.
  """

  def __init__(
    self,
    backbone: keras.Model,
    num_classes: int,
    aspp: str = "none",
    decoder: str = "none",
    atrous_rates: Sequence[int] | None = None,
    norm: Norm | None = None,
    fine_tune_batch_norm: bool = True,
    dropout_rate: float = 0.1,
    channels: int = CHANNELS,
    kernel_regularizer: keras.regularizers.Regularizer | None = None,
    **kwargs: Any,
  ) -> None:
    """Builds the network.

    Args:
      backbone: Model Garden's kind of network: its outputs are features by level. For a
        decoder, MobileNetV2 needs `output_intermediate_endpoints`.
      num_classes: Number of classes, the background included.
      aspp: Kind of the atrous branches, one of `CONVOLUTIONS`. `"none"` leaves the
        image pooling and the 1x1 branch.
      decoder: Kind of the decoder's two 3x3 convolutions, one of `CONVOLUTIONS`.
      atrous_rates: Dilation rates of the branches; None is the published ones.
      norm: Batch norm and activation of the head; None is research/deeplab's.
      fine_tune_batch_norm: Whether training uses the statistics of the batch and moves
        the moving ones; scale and offset are trained either way.
      dropout_rate: Fraction of the head's features dropped in training.
      channels: Output channels of each branch, of their projection and of the decoder.
      kernel_regularizer: Regularizer of ordinary kernels; depthwise kernels have none.
      **kwargs: Keyword arguments of `keras.Model`, such as `name`.

    Raises:
      UserError: If a kind is unknown, if rates are impossible, or if the backbone lacks
        the decoder's features.
    """
    for name, kind in {"aspp": aspp, "decoder": decoder}.items():
      if kind not in CONVOLUTIONS:
        raise UserError(
          f"{name}: {kind!r} is unknown. {did_you_mean(kind, CONVOLUTIONS)}"
        )
    self._norm = norm or Norm()
    self._channels = channels
    self._regularizer = kernel_regularizer
    self._fine_tune_batch_norm = fine_tune_batch_norm

    images = keras.Input(shape=backbone.input_shape[1:])
    features = backbone(images, **self._training)
    output_stride = _output_stride(backbone)
    x = features[str(output_stride.bit_length() - 1)]
    rates = _rates(atrous_rates, output_stride) if aspp != "none" else ()
    x = self._pyramid(x, aspp, rates)
    x = keras.layers.Dropout(dropout_rate, name="dropout")(x)
    if decoder != "none":
      x = self._decode(x, self._low_level(features), decoder)
    with precision.full_precision():
      logits = keras.layers.Conv2D(
        num_classes,
        1,
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.01),
        kernel_regularizer=kernel_regularizer,
        name=LOGITS,
      )(x)
    super().__init__(inputs=images, outputs={"logits": logits}, **kwargs)
    self.backbone = backbone
    self.logits_stride = DECODER_STRIDE if decoder != "none" else output_stride
    self._head_scopes = frozenset(layer.name for layer in self.layers)
    for network in (
      self,
      backbone,
    ):  # accept images of other sizes than it was built for
      network.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: images.shape[-1]})

  def tf1_scope(self, layer: str) -> str:
    """Returns research/deeplab's scope of a layer, here or of the backbone."""
    return layer if layer in self._head_scopes else f"MobilenetV2/{layer}"

  @property
  def checkpoint_items(self) -> Mapping[str, keras.Model]:
    """What the trainer stores besides the model, so that others start from it."""
    return {"backbone": self.backbone}

  @property
  def _training(self) -> dict[str, bool]:
    """Argument of layers with batch norm; once given, the network's own is ignored."""
    return {} if self._fine_tune_batch_norm else {"training": False}

  def _low_level(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
    if LOW_LEVEL not in features:
      raise UserError(
        f"The decoder reads the features {LOW_LEVEL!r}; the backbone has "
        f"{', '.join(features)}. Set output_intermediate_endpoints = True of "
        "mobilenet_v2, or decoder = 'none'."
      )
    return features[LOW_LEVEL]

  def _pyramid(self, x: tf.Tensor, kind: str, rates: Sequence[int]) -> tf.Tensor:
    """Applies the branches and joins them; dropout follows."""
    with precision.full_precision():
      pooled = keras.layers.GlobalAveragePooling2D(keepdims=True, name="average_pool")(
        x
      )
    pooled = self._convolve(pooled, "image_pooling", activation="relu")
    pooled = resize.ResizeLike(name="image_pooling/resize")([pooled, x])
    branches = [pooled, self._convolve(x, "aspp0")]
    for number, rate in enumerate(rates, 1):
      branches.append(self._spatial(x, f"aspp{number}", kind, rate))
    joined = keras.layers.Concatenate(name="concat")(branches)
    return self._convolve(joined, "concat_projection")

  def _decode(self, x: tf.Tensor, low_level: tf.Tensor, kind: str) -> tf.Tensor:
    """Joins the pyramid with features at stride 4, and convolves twice."""
    projected = self._convolve(
      low_level, "decoder/feature_projection0", channels=LOW_LEVEL_CHANNELS
    )
    x = resize.ResizeLike(name="decoder/resize")([x, projected])
    x = keras.layers.Concatenate(name="decoder/concat")([x, projected])
    # slim's `repeat` names ordinary convolutions after the first one's scope.
    names = {
      "separable": ("decoder_conv0", "decoder_conv1"),
      "ordinary": ("decoder_conv0/decoder_conv0_1", "decoder_conv0/decoder_conv0_2"),
    }
    for name in names[kind]:
      x = self._spatial(x, f"decoder/{name}", kind)
    return x

  def _spatial(self, x: tf.Tensor, name: str, kind: str, rate: int = 1) -> tf.Tensor:
    """Applies a 3x3 convolution, ordinary or separable, at an atrous rate."""
    if kind == "ordinary":
      return self._convolve(x, name, kernel_size=3, rate=rate)
    x = keras.layers.DepthwiseConv2D(
      3,
      padding="same",
      dilation_rate=rate,
      use_bias=False,
      depthwise_initializer=keras.initializers.TruncatedNormal(stddev=0.33),
      name=f"{name}_depthwise",
    )(x)
    x = self._normalize(x, f"{name}_depthwise")
    initializer = keras.initializers.TruncatedNormal(stddev=0.06)
    return self._convolve(x, f"{name}_pointwise", initializer=initializer)

  def _convolve(
    self,
    x: tf.Tensor,
    name: str,
    channels: int | None = None,
    kernel_size: int = 1,
    rate: int = 1,
    initializer: str | keras.initializers.Initializer = "glorot_uniform",
    activation: str | None = None,
  ) -> tf.Tensor:
    """Applies an ordinary convolution, batch norm and the activation."""
    x = keras.layers.Conv2D(
      channels or self._channels,
      kernel_size,
      padding="same",
      dilation_rate=rate,
      use_bias=False,
      kernel_initializer=initializer,
      kernel_regularizer=self._regularizer,
      name=name,
    )(x)
    return self._normalize(x, name, activation)

  def _normalize(
    self, x: tf.Tensor, name: str, activation: str | None = None
  ) -> tf.Tensor:
    x = keras.layers.BatchNormalization(
      # TF1's graph subtracts the float32 momentum from 1.
      momentum=float(np.float32(self._norm.norm_momentum)),
      epsilon=self._norm.norm_epsilon,
      synchronized=self._norm.use_sync_bn,
      name=f"{name}/{BATCH_NORM}",
    )(x, **self._training)
    function = tf_utils.get_activation(activation or self._norm.activation)
    return keras.layers.Activation(function, name=f"{name}/activation")(x)
