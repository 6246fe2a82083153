"""The cell of NASNet-A and PNASNet-5, made of Keras layers from a row of a plan.

Source: `nasnet_utils.py` of slim. Layers bear the names of its scopes.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf
from official.modeling import tf_utils

from mnv2_hpu.compat import keras
from mnv2_hpu.modeling import nasnet_plans, stateless_dropout

_POOLS = {
  "average": keras.layers.AveragePooling2D,
  "maximum": keras.layers.MaxPooling2D,
}
_POOL_SIZE = 3


@keras.utils.register_keras_serializable(package="mnv2_hpu")
class FanOutNormal(keras.initializers.Initializer):
  """Slim's `variance_scaling_initializer(factor=2, mode="FAN_OUT")`.

  A normal of standard deviation sqrt(1.3 * 2 / fan_out), truncated at two of them.
  Keras' `VarianceScaling` has 1.2924 in the place of slim's 1.3. Of a depthwise kernel,
  fan_out is its height times its width.
  """

  def __call__(
    self, shape: tf.TensorShape, dtype: Any = None, **kwargs: Any
  ) -> tf.Tensor:
    """Returns initial values.

    Args:
      shape: Shape of a kernel, `[..., in, out]`.
      dtype: Floating type of the values.
      **kwargs: What Keras passes on to its own initializers.
    """
    *window, _, out = shape
    stddev = math.sqrt(1.3 * 2 / (math.prod(window) * out))
    return keras.initializers.TruncatedNormal(stddev=stddev)(shape, dtype, **kwargs)

  def get_config(self) -> dict[str, Any]:
    """Returns the constructor's arguments: none."""
    return {}


@keras.utils.register_keras_serializable(package="mnv2_hpu")
class PoolPadding(keras.layers.Layer):
  """Pads by zeros what a pool of size 3 and stride 2 reads, as SAME counts pixels.

  Maps `[batch, height, width, channels]` to one or two rows and columns more.
  """

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    """Returns the padded features."""
    sides = zip(inputs.shape[1:3], tf.unstack(tf.shape(inputs)[1:3]), strict=True)
    amounts = [
      [(static if static is not None else dynamic) % 2, 1] for static, dynamic in sides
    ]
    return tf.pad(inputs, [[0, 0], *amounts, [0, 0]])


@dataclasses.dataclass(frozen=True)
class Layers:
  """Makes layers, and the cell of them.

  Attributes:
    initializer: Initializer of all kernels.
    regularizer: Regularizer of all kernels, depthwise ones too.
    activation: Activation before convolutions, a Keras name or a function.
    norm_momentum: Momentum of the moving batch statistics.
    norm_epsilon: Epsilon added to the batch variance.
    use_sync_bn: Whether batch statistics are those of all replicas.
    zero_padded_pools: Whether pools of stride 2 count zeros around the image, as those
      of Keras Applications do, instead of leaving the padding out.
  """

  initializer: keras.initializers.Initializer
  regularizer: keras.regularizers.Regularizer | None
  activation: Any
  norm_momentum: float
  norm_epsilon: float
  use_sync_bn: bool
  zero_padded_pools: bool

  def activate(self, x: tf.Tensor, name: str) -> tf.Tensor:
    """Applies the activation."""
    return keras.layers.Activation(self.activation, name=name)(x)

  def normalize(self, x: tf.Tensor, name: str) -> tf.Tensor:
    """Applies a batch norm."""
    return keras.layers.BatchNormalization(
      axis=-1,
      # TF1's graph subtracts the float32 momentum from 1.
      momentum=float(np.float32(self.norm_momentum)),
      epsilon=self.norm_epsilon,
      synchronized=self.use_sync_bn,
      name=name,
    )(x)

  def convolve(
    self,
    x: tf.Tensor,
    channels: int,
    name: str,
    size: int | tuple[int, int] = 1,
    stride: int = 1,
    padding: str = "same",
  ) -> tf.Tensor:
    """Applies a convolution without a bias."""
    return keras.layers.Conv2D(
      channels,
      size,
      strides=stride,
      padding=padding,
      use_bias=False,
      kernel_initializer=tf_utils.clone_initializer(self.initializer),
      kernel_regularizer=self.regularizer,
      name=name,
    )(x)

  def apply_cell(
    self,
    cell: nasnet_plans.Cell,
    x: tf.Tensor,
    previous: tf.Tensor | None,
    keep_prob: float = 1.0,
    total_steps: int = 1,
  ) -> tf.Tensor:
    """Applies a cell.

    Args:
      cell: Row of the plan.
      x: Output of the cell before it, `[batch, height, width, channels]`.
      previous: Its second input, of the same or twice the size; None is `x` as it is.
      keep_prob: Probability, after `total_steps`, that a branch is kept in training.
      total_steps: Steps in which it falls from 1.

    Returns:
      `[batch, ceil(height / stride), ceil(width / stride), k * filters]`.
    """
    scope, filters = cell.scope, cell.filters
    previous = x if previous is None else self._match(previous, cell)
    x = self.activate(x, f"{scope}/relu")
    x = self.convolve(x, filters, f"{scope}/1x1")
    states = [self.normalize(x, f"{scope}/beginning_bn"), previous]
    kind = nasnet_plans.KINDS[cell.kind]
    for number, branches in enumerate(kind.combinations):
      sides = []
      for side, branch in zip(("left", "right"), branches, strict=True):
        name = f"{scope}/comb_iter_{number}/{side}"
        stride = cell.stride if branch.state < 2 else 1  # sums are small already
        y = self._branch(states[branch.state], branch, filters, stride, name)
        if branch.operation != "none" and keep_prob < 1:
          y = stateless_dropout.DropPath(
            keep_prob, total_steps, name=f"{name}/drop_path"
          )(y)
        sides.append(y)
      states.append(keras.layers.Add(name=f"{scope}/comb_iter_{number}/add")(sides))
    outputs = []
    for state in kind.outputs:
      y = states[state]
      if y.shape[-1] != filters:
        name = f"{scope}/cell_output/reduction_{state}"
        y = self.convolve(y, filters, f"{name}/path_conv")
        y = self.normalize(y, f"{name}/path_bn")
      outputs.append(y)
    return keras.layers.Concatenate(name=f"{scope}/cell_output")(outputs)

  def _match(self, x: tf.Tensor, cell: nasnet_plans.Cell) -> tf.Tensor:
    """Brings the second input of a cell to the size of the first, and its filters."""
    scope, filters = cell.scope, cell.filters
    if not cell.is_previous_larger:
      if x.shape[-1] == filters:
        return x
      x = self.activate(x, f"{scope}/prev_relu")
      x = self.convolve(x, filters, f"{scope}/prev_1x1")
      return self.normalize(x, f"{scope}/prev_bn")
    x = self.activate(x, f"{scope}/prev_relu")
    # Pixels 0, 2, 4, … and 1, 3, 5, …, of which the last may be zero.
    even = self.convolve(x, filters // 2, f"{scope}/path1_conv", stride=2)
    x = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{scope}/path2_pad")(x)
    x = keras.layers.Cropping2D(((1, 0), (1, 0)), name=f"{scope}/path2_crop")(x)
    odd = self.convolve(x, filters - filters // 2, f"{scope}/path2_conv", stride=2)
    x = keras.layers.Concatenate(name=f"{scope}/paths")([even, odd])
    return self.normalize(x, f"{scope}/final_path_bn")

  def _branch(
    self,
    x: tf.Tensor,
    branch: nasnet_plans.Branch,
    filters: int,
    stride: int,
    name: str,
  ) -> tf.Tensor:
    """Applies an operation; its output has as many channels as `filters`."""
    if branch.operation == "separable":
      return self._separable(x, branch.size, filters, stride, name)
    if branch.operation == "none":
      if stride == 1 and x.shape[-1] == filters:
        return x
      x = self.activate(x, f"{name}/relu")
      x = self.convolve(x, filters, f"{name}/1x1", stride=stride)
      return self.normalize(x, f"{name}/bn_1")
    padding = "same"
    if stride > 1 and self.zero_padded_pools:
      x, padding = PoolPadding(name=f"{name}/pad")(x), "valid"
    pool = _POOLS[branch.operation]
    x = pool(_POOL_SIZE, stride, padding, name=f"{name}/pool")(x)
    if x.shape[-1] == filters:
      return x
    x = self.convolve(x, filters, f"{name}/1x1")
    return self.normalize(x, f"{name}/bn_1")

  def _separable(
    self, x: tf.Tensor, size: int, filters: int, stride: int, name: str
  ) -> tf.Tensor:
    """Applies twice: activation, depthwise and pointwise convolution, batch norm."""
    for number in (1, 2):
      suffix = f"{size}x{size}_{number}"
      x = self.activate(x, f"{name}/relu_{number}")
      x = keras.layers.SeparableConv2D(
        filters,
        size,
        strides=stride if number == 1 else 1,
        padding="same",
        use_bias=False,
        depthwise_initializer=tf_utils.clone_initializer(self.initializer),
        pointwise_initializer=tf_utils.clone_initializer(self.initializer),
        depthwise_regularizer=self.regularizer,
        pointwise_regularizer=self.regularizer,
        name=f"{name}/separable_{suffix}",
      )(x)
      x = self.normalize(x, f"{name}/bn_sep_{suffix}")
    return x
