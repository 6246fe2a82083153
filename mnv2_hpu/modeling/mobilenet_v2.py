"""MobileNetV2: inverted residuals and linear bottlenecks (arXiv 1801.04381)."""

import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from official.modeling import hyperparams, tf_utils
from official.vision.modeling.backbones import factory

from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import block_specs

OUTPUT_STRIDES = (8, 16, 32)
_CONVOLUTION = {"data_format": "channels_last", "use_bias": False}
FINEST_LEVEL = 2  # level l has stride 2**l
BATCH_NORM = "BatchNorm"  # name in the scope of its convolution, as slim's


def _check_arguments(
  width_multiplier: Any,
  output_stride: Any,
  channel_divisor: Any,
  input_specs: keras.layers.InputSpec,
) -> None:
  """Raises a UserError for what no network can be built from."""
  if not (
    isinstance(width_multiplier, numbers.Real)
    and 0 < float(width_multiplier) < math.inf
  ):
    raise UserError(
      f"width_multiplier is {width_multiplier!r}; it must be a number above 0. "
      "The paper's are 0.35, 0.5, 0.75, 1.0, 1.3 and 1.4."
    )
  if output_stride is not None and output_stride not in OUTPUT_STRIDES:
    raise UserError(
      f"output_stride is {output_stride!r}; it must be one of "
      f"{', '.join(map(str, OUTPUT_STRIDES))}, or None, which is the network's own 32."
    )
  if type(channel_divisor) is not int or channel_divisor < 1:
    raise UserError(
      f"channel_divisor is {channel_divisor!r}; it must be a positive integer. slim's "
      "is 8; the one of research/deeplab at widths other than 1 is 1."
    )
  shape = input_specs.shape
  if shape is None or len(shape) != 4 or shape[-1] is None:
    raise UserError(
      f"input_specs has shape {shape}; it must be [batch, height, width, channels] "
      "with a known number of channels. InputSpec(shape=[None, None, None, 3]) is for "
      "color images of any size."
    )


def _level(key: str) -> int:
  return int(key.split("/")[0])


def _activation_function(name: str) -> Any:
  try:
    return tf_utils.get_activation(name)
  except ValueError as error:
    raise UserError(
      f"activation is {name!r}, which neither Model Garden nor Keras knows. "
      "The recipe's is 'relu6'."
    ) from error


@keras.utils.register_keras_serializable(package="mnv2_hpu")
class MobileNetV2(keras.Model):
  """MobileNetV2 without its classifier, as a backbone of Model Garden.

  Maps images `[batch, height, width, channels]` of any size to a dictionary of features
  `[batch, ceil(height / 2**l), ceil(width / 2**l), c]` in the compute dtype. Its keys
  are Model Garden's:

  * `"2"` to `"5"`: the last block at stride 2**l. With an output stride of 16 (8) they
    end at `"4"` (`"3"`);
  * the next level, `"6"`: the last 1x1 convolution, for classification. It has the size
    of the level below it; `include_last_convolution=False` leaves it out;
  * with `output_intermediate_endpoints`, `"<l>/depthwise"` and `"<l>/expansion"`: the
    last such activations at stride 2**l, inside a block. `"4/expansion"` is slim's
    `layer_15/expansion_output`, which SSDLite reads.

  Layers are named after slim's scopes: `Conv`, `expanded_conv_1/expand`,
  `expanded_conv_1/depthwise/BatchNorm`, `Conv_1`. Source of the numbers: the paper,
  table 2; of the rest: slim's `mobilenet_v2.py` and `mobilenet.py`.
  """

  # Scopes in slim's checkpoints; see `checkpoints.variables`.
  slim_scope = block_specs.SLIM_SCOPE
  slim_logits = block_specs.SLIM_LOGITS
  slim_auxiliary = ""

  def __init__(
    self,
    width_multiplier: float = 1.0,
    output_stride: int | None = None,
    input_specs: keras.layers.InputSpec | None = None,
    finegrain_classification_mode: bool = True,
    use_explicit_padding: bool = False,
    min_channels: int | None = None,
    channel_divisor: int = block_specs.CHANNEL_DIVISOR,
    include_last_convolution: bool = True,
    activation: str = "relu6",
    use_sync_bn: bool = False,
    norm_momentum: float = 0.997,
    norm_epsilon: float = 0.001,
    kernel_initializer: str | keras.initializers.Initializer | None = None,
    kernel_regularizer: str | keras.regularizers.Regularizer | None = None,
    output_intermediate_endpoints: bool = False,
    trainable: bool = True,
    **kwargs: Any,
  ) -> None:
    """Builds the network.

    Args:
      width_multiplier: Factor above 0 of the channels of every layer.
      output_stride: 8, 16 or 32: input size / size of the last features; beyond it
        depthwise convolutions are dilated instead of strided. None is 32.
      input_specs: Shape of the images; None is `[None, None, None, 3]`.
      finegrain_classification_mode: Whether the last convolution keeps 1280 channels
        at widths below 1, as slim's `mobilenet_v2_035`; False narrows it as well.
      use_explicit_padding: Whether 3x3 convolutions of stride 2 pad one pixel on each
        side, as PyTorch's networks do, instead of TensorFlow's SAME, which at even
        sizes pads on the right and below alone. Slim's argument of that name.
      min_channels: Fewest channels of a layer; None is `channel_divisor`. The detectors
        of the Object Detection API have 16, which differs at widths below 0.75.
      channel_divisor: Number whose multiples the channels outside of blocks are: 8, or
        1 for the checkpoints of research/deeplab at widths other than 1.
      include_last_convolution: Whether the 1x1 convolution after the blocks is there.
      activation: Activation after all convolutions but the projections.
      use_sync_bn: Whether batch statistics are those of all replicas.
      norm_momentum: Momentum of the moving batch statistics.
      norm_epsilon: Epsilon added to the batch variance.
      kernel_initializer: Initializer of all kernels; None is slim's
        TruncatedNormal(stddev=0.09).
      kernel_regularizer: Regularizer of ordinary kernels; depthwise kernels have none.
      output_intermediate_endpoints: Whether to output activations inside blocks too.
      trainable: False freezes all weights and the batch statistics.
      **kwargs: Keyword arguments of `keras.Model`, such as `name`.

    Raises:
      UserError: if the width, the output stride, the input's shape or the activation
        is impossible.
    """
    if input_specs is None:
      input_specs = keras.layers.InputSpec(shape=[None, None, None, 3])
    _check_arguments(width_multiplier, output_stride, channel_divisor, input_specs)
    self._width_multiplier = width_multiplier
    self._output_stride = output_stride
    self._input_specs = input_specs
    self._finegrain_classification_mode = finegrain_classification_mode
    self._use_explicit_padding = use_explicit_padding
    self._min_channels = min_channels
    self._channel_divisor = channel_divisor
    self._include_last_convolution = include_last_convolution
    self._activation = activation
    self._use_sync_bn = use_sync_bn
    self._norm_momentum = norm_momentum
    self._norm_epsilon = norm_epsilon
    self._kernel_initializer = (
      keras.initializers.TruncatedNormal(stddev=0.09)
      if kernel_initializer is None
      else keras.initializers.get(kernel_initializer)
    )
    self._kernel_regularizer = keras.regularizers.get(kernel_regularizer)
    self._output_intermediate_endpoints = output_intermediate_endpoints

    images = keras.Input(shape=input_specs.shape[1:])
    specs = block_specs.build_specs(
      width_multiplier,
      output_stride,
      finegrain_classification_mode,
      min_channels,
      channel_divisor,
    )
    endpoints, x = self._connect(images, specs)
    # As in Model Garden: decoders do not read the classifier's features.
    self._output_specs = {key: tensor.shape for key, tensor in endpoints.items()}
    if include_last_convolution:
      next_level = max(map(_level, endpoints)) + 1
      endpoints[str(next_level)] = self._convolve(x, "Conv_1", specs.last_channels)
    super().__init__(inputs=images, outputs=endpoints, **kwargs)
    self.trainable = trainable  # by the setter, which also tells the batch norms

  def _connect(
    self, images: tf.Tensor, specs: block_specs.NetworkSpec
  ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Returns the endpoints by level, and the last block's output."""
    endpoints = {}
    x = self._convolve(images, "Conv", specs.first_channels, 3, 2)
    for block in specs.blocks:
      shortcut = x
      if block.expansion > 1:
        channels = block_specs.round_channels(block.expansion * x.shape[-1])
        x = self._convolve(x, f"{block.name}/expand", channels)
        endpoints[f"{block.input_level}/expansion"] = x
      x = self._convolve_depthwise(x, block)
      endpoints[f"{block.level}/depthwise"] = x
      x = self._convolve(x, f"{block.name}/project", block.channels, activate=False)
      if block.stride == 1 and shortcut.shape[-1] == block.channels:
        x = keras.layers.Add(name=f"{block.name}/add")([x, shortcut])
      endpoints[str(block.level)] = x
    # Later blocks have overwritten earlier ones of the same level.
    endpoints = {
      key: tensor
      for key, tensor in endpoints.items()
      if _level(key) >= FINEST_LEVEL
      and ("/" not in key or self._output_intermediate_endpoints)
    }
    return endpoints, x

  def _convolve(
    self,
    x: tf.Tensor,
    name: str,
    channels: int,
    kernel_size: int = 1,
    stride: int = 1,
    activate: bool = True,
  ) -> tf.Tensor:
    """Applies a convolution, batch norm and, unless it is linear, the activation."""
    x, padding = self._pad(x, name, stride)
    x = keras.layers.Conv2D(
      channels,
      kernel_size,
      strides=stride,
      padding=padding,
      kernel_initializer=tf_utils.clone_initializer(self._kernel_initializer),
      kernel_regularizer=self._kernel_regularizer,
      name=name,
      **_CONVOLUTION,
    )(x)
    return self._normalize(x, name, activate)

  def _convolve_depthwise(self, x: tf.Tensor, block: block_specs.Block) -> tf.Tensor:
    """Applies a block's 3x3 depthwise convolution, batch norm and the activation."""
    name = f"{block.name}/depthwise"
    x, padding = self._pad(x, name, block.stride)
    x = keras.layers.DepthwiseConv2D(
      3,
      strides=block.stride,
      padding=padding,
      dilation_rate=block.dilation_rate,
      depthwise_initializer=tf_utils.clone_initializer(self._kernel_initializer),
      name=name,
      **_CONVOLUTION,
    )(x)
    return self._normalize(x, name)

  def _pad(self, x: tf.Tensor, name: str, stride: int) -> tuple[tf.Tensor, str]:
    """Returns the input of a convolution, and the padding that it is to do itself."""
    if stride == 1 or not self._use_explicit_padding:
      return x, "same"
    return keras.layers.ZeroPadding2D(1, name=f"{name}/pad")(x), "valid"

  def _normalize(self, x: tf.Tensor, name: str, activate: bool = True) -> tf.Tensor:
    x = keras.layers.BatchNormalization(
      axis=-1,
      # TF1's graph subtracts the float32 momentum from 1, which gives 0.00300002.
      momentum=float(np.float32(self._norm_momentum)),
      epsilon=self._norm_epsilon,
      synchronized=self._use_sync_bn,
      name=f"{name}/{BATCH_NORM}",
    )(x)
    if not activate:
      return x
    function = _activation_function(self._activation)
    return keras.layers.Activation(function, name=f"{name}/activation")(x)

  @property
  def kernel_initializer(self) -> keras.initializers.Initializer:
    """The initializer of all kernels, for heads that share it."""
    return self._kernel_initializer

  @property
  def output_specs(self) -> Mapping[str, tf.TensorShape]:
    """Shapes of the outputs by key, without the last convolution's."""
    return self._output_specs

  def get_config(self) -> dict[str, Any]:
    """Returns the constructor's arguments, in a form that JSON can hold."""
    return {
      "name": self.name,
      "trainable": self.trainable,
      "width_multiplier": self._width_multiplier,
      "output_stride": self._output_stride,
      "input_specs": self._input_specs.get_config(),
      "finegrain_classification_mode": self._finegrain_classification_mode,
      "use_explicit_padding": self._use_explicit_padding,
      "min_channels": self._min_channels,
      "channel_divisor": self._channel_divisor,
      "include_last_convolution": self._include_last_convolution,
      "activation": self._activation,
      "use_sync_bn": self._use_sync_bn,
      "norm_momentum": self._norm_momentum,
      "norm_epsilon": self._norm_epsilon,
      "kernel_initializer": keras.initializers.serialize(self._kernel_initializer),
      "kernel_regularizer": keras.regularizers.serialize(self._kernel_regularizer),
      "output_intermediate_endpoints": self._output_intermediate_endpoints,
    }

  @classmethod
  def from_config(
    cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
  ) -> "MobileNetV2":
    """Builds the network that `get_config` describes."""
    input_specs = keras.layers.InputSpec.from_config(config["input_specs"])
    with keras.utils.custom_object_scope(custom_objects or {}):
      return cls(**{**config, "input_specs": input_specs})


@factory.register_backbone_builder("mobilenet_v2")
def build_mobilenet_v2(
  input_specs: keras.layers.InputSpec,
  backbone_config: hyperparams.OneOfConfig,
  norm_activation_config: hyperparams.Config,
  l2_regularizer: keras.regularizers.Regularizer | None = None,
) -> MobileNetV2:
  """Builds the backbone from its configuration (`configs.backbones.MobileNetV2`).

  Args:
    input_specs: Shape of the images, `[batch, height, width, channels]`.
    backbone_config: One-of config whose choice is `mobilenet_v2`.
    norm_activation_config: Config with `activation`, `use_sync_bn`, `norm_momentum`
      and `norm_epsilon`.
    l2_regularizer: Regularizer of ordinary convolution kernels.
  """
  config = backbone_config.get()
  return MobileNetV2(
    width_multiplier=config.width_multiplier,
    output_stride=config.output_stride,
    input_specs=input_specs,
    finegrain_classification_mode=config.finegrain_classification_mode,
    use_explicit_padding=config.use_explicit_padding,
    min_channels=config.min_channels,
    channel_divisor=config.channel_divisor,
    include_last_convolution=config.include_last_convolution,
    activation=norm_activation_config.activation,
    use_sync_bn=norm_activation_config.use_sync_bn,
    norm_momentum=norm_activation_config.norm_momentum,
    norm_epsilon=norm_activation_config.norm_epsilon,
    kernel_initializer=keras.initializers.TruncatedNormal(
      stddev=config.kernel_initializer_stddev
    ),
    kernel_regularizer=l2_regularizer,
    output_intermediate_endpoints=config.output_intermediate_endpoints,
    trainable=config.trainable,
  )
