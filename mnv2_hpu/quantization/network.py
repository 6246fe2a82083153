"""A network changed in place, so that it computes as its int8 export will.

The layers stay, with their names and weights: a float checkpoint is read as it is. What
is rounded are kernels, the input, and each tensor that TFLite stores: the outputs of
layers, but for those that it computes in one operation with what follows them.
"""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import resize, stateless_dropout
from mnv2_hpu.quantization import fake_quantization

# Attributes of a model; the former are names in its checkpoints.
_RANGE, _NUM_RANGES = "quantization_range", "num_quantization_ranges"
_layers = keras.layers
_KERNELS = (_layers.Conv2D, _layers.DepthwiseConv2D, _layers.Dense)
_NORMS = (_layers.BatchNormalization,)
_COMPUTING = (
  *(_layers.Activation, _layers.Add, _layers.Concatenate),
  _layers.GlobalAveragePooling2D,
)
# What they yield has the range of what they take.
_PASSING = (
  *(_layers.Dropout, _layers.Reshape, _layers.ZeroPadding2D, _layers.InputLayer),
  resize.ResizeLike,
)


def quantize(model: keras.Model, freeze_batch_norm_step: int = 0) -> None:
  """Makes a network round as its int8 export does, in training and in inference.

  Its ranges are new variables. They move in calls within
  `stateless_dropout.dropout_step`, which is what a training step is. They belong to the
  model, not to the layers: checkpoints number those that have weights.

  Args:
    model: Functional model of functional models, of this project's layers.
    freeze_batch_norm_step: Step from which batch norms use their moving statistics; 0
      is never.

  Raises:
    UserError: If it has a layer of which it is not known how TFLite computes it.
  """
  found: list[tf.Variable] = []
  for part in _parts(model):
    for layer in part.layers:
      if isinstance(layer, keras.Model):
        continue
      if not isinstance(layer, (*_KERNELS, *_NORMS, *_COMPUTING, *_PASSING)):
        raise UserError(
          f"the layer {layer.name!r} ({type(layer).__name__}) is not known to "
          "quantization-aware training. Its networks are those of mobilenet_v2: set "
          "task.model.backbone.type to it."
        )
      for of_layer in _quantize_layer(layer, freeze_batch_norm_step):
        found += [of_layer.low, of_layer.high]
  # One by one: a list, which Keras tracks, compares its variables, and that reads
  # those of all replicas, on rank 0 alone.
  for number, variable in enumerate(found):
    setattr(model, f"{_RANGE}_{number}", variable)
  setattr(model, _NUM_RANGES, len(found))


def ranges(model: keras.Model) -> list[tf.Variable]:
  """Returns the variables that a network has because it is quantized; none if not."""
  count = getattr(model, _NUM_RANGES, 0)
  return [getattr(model, f"{_RANGE}_{number}") for number in range(count)]


def _parts(model: keras.Model) -> Iterator[keras.Model]:
  yield model
  for layer in model.layers:
    if isinstance(layer, keras.Model):
      yield from _parts(layer)


def _quantize_layer(
  layer: keras.layers.Layer, freeze_batch_norm_step: int
) -> list[fake_quantization.Range]:
  """Makes a layer round; returns its ranges."""
  of_input = of_output = None
  if _takes_images(layer):
    of_input = fake_quantization.Range(f"{layer.name}/input")
  if not isinstance(layer, _PASSING) and not _is_fused(layer):
    of_output = fake_quantization.Range(f"{layer.name}/output")
  is_frozen_later = isinstance(layer, _NORMS) and freeze_batch_norm_step > 0
  is_changed = isinstance(layer, (*_KERNELS, resize.ResizeLike))
  if of_input or of_output or is_frozen_later or is_changed:
    layer.call = _QuantizedCall(layer, of_input, of_output, freeze_batch_norm_step)
  return [one for one in (of_input, of_output) if one is not None]


def _takes_images(layer: keras.layers.Layer) -> bool:
  """Whether a layer is the first that computes something of the network's input."""
  sources = [
    source
    for node in layer.inbound_nodes
    for source in tf.nest.flatten(node.inbound_layers)
  ]
  return any(isinstance(source, _layers.InputLayer) for source in sources)


def _is_fused(layer: keras.layers.Layer) -> bool:
  """Whether TFLite computes a layer in one operation with those after it."""
  following = [node.outbound_layer for node in layer.outbound_nodes]
  if isinstance(layer, _KERNELS):
    ends: tuple[Any, ...] = _NORMS
  else:
    ends = (_layers.Activation,) if isinstance(layer, _NORMS) else ()
  if following and all(isinstance(other, ends) for other in following):
    return True
  # What is joined has one range, that of the whole.
  return bool(following) and all(_is_joined(other) for other in following)


def _is_joined(layer: keras.layers.Layer) -> bool:
  """Whether a layer is a concatenation, or only passes on to one."""
  if isinstance(layer, _PASSING):
    following = [node.outbound_layer for node in layer.outbound_nodes]
    return bool(following) and all(map(_is_joined, following))
  return isinstance(layer, _layers.Concatenate)


class _QuantizedCall:
  """What a layer computes, its input, kernel and output rounded to eight bits."""

  def __init__(
    self,
    layer: keras.layers.Layer,
    input_range: fake_quantization.Range | None,
    output_range: fake_quantization.Range | None,
    freeze_step: int,
  ) -> None:
    self._input_range = input_range
    self._output_range = output_range
    self._layer = layer
    self._call = layer.call
    self._freeze_step = freeze_step

  def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> tf.Tensor:
    if self._input_range is not None:
      inputs = self._input_range(inputs)
    if isinstance(self._layer, _KERNELS):
      outputs = _apply_kernel(self._layer, inputs)
    elif isinstance(self._layer, resize.ResizeLike):
      outputs = _resize_like(*inputs)
    else:
      if isinstance(self._layer, _NORMS):
        kwargs["training"] = self._uses_batch(kwargs.get("training"))
      outputs = self._call(inputs, *args, **kwargs)
    return outputs if self._output_range is None else self._output_range(outputs)

  def _uses_batch(self, training: Any) -> Any:
    """Returns whether a batch norm is to use the statistics of the batch."""
    step = stateless_dropout.current_step()
    if not (training and self._freeze_step) or step is None:
      return training
    return tf.cast(step, tf.int64) < self._freeze_step


def _apply_kernel(layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
  """Returns a convolution or a product with the rounded kernel, and the bias."""
  if isinstance(layer, _layers.Dense):
    x = tf.matmul(inputs, fake_quantization.quantize_matrix(layer.kernel))
  elif isinstance(layer, _layers.DepthwiseConv2D):
    x = keras.backend.depthwise_conv2d(
      inputs,
      fake_quantization.quantize_kernel(layer.depthwise_kernel, is_depthwise=True),
      strides=layer.strides,
      padding=layer.padding,
      dilation_rate=layer.dilation_rate,
    )
  else:
    kernel = fake_quantization.quantize_kernel(layer.kernel)
    x = layer.convolution_op(inputs, kernel)
  return tf.nn.bias_add(x, layer.bias) if layer.use_bias else x


def _resize_like(x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
  """Returns what `ResizeLike` does, by the operation that TFLite has in int8."""
  size = like.shape[1:3] if all(like.shape[1:3]) else tf.shape(like)[1:3]
  return tf.compat.v1.image.resize_bilinear(x, size, align_corners=True)
