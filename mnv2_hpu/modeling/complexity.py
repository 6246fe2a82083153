"""The size of a network's work, in the paper's unit: multiply-adds."""

from collections.abc import Iterator

from mnv2_hpu.compat import keras


def _leaf_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
  for layer in model.layers:
    if isinstance(layer, keras.Model):
      yield from _leaf_layers(layer)
    else:
      yield layer


def multiply_adds(model: keras.Model) -> int:
  """Returns the multiply-adds of one image, counting convolutions and dense layers.

  Each output value of such a layer costs its share of the kernel. Batch norm and
  activations are left out, as in the paper (arXiv 1801.04381, table 4: 300 M for
  width 1.0 at 224 x 224).

  Args:
    model: a functional model (of functional models) with a fixed input size.
  """
  total = 0
  for layer in _leaf_layers(model):
    if isinstance(layer, keras.layers.DepthwiseConv2D):
      _, height, width, _ = layer.output_shape
      total += height * width * layer.depthwise_kernel.shape.num_elements()
    elif isinstance(layer, keras.layers.Conv2D):
      _, height, width, _ = layer.output_shape
      total += height * width * layer.kernel.shape.num_elements()
    elif isinstance(layer, keras.layers.Dense):
      total += layer.kernel.shape.num_elements()
  return int(total)
