"""The cost of a network in the paper's unit: multiply-adds."""

import functools
import math
from typing import Any

from official.core import train_utils

from mnv2_hpu.compat import keras

_COUNTED = (
  keras.layers.Conv2D,
  keras.layers.DepthwiseConv2D,
  keras.layers.SeparableConv2D,
  keras.layers.Dense,
)


def multiply_adds(model: keras.Model) -> int:
  """Returns the multiply-adds of one image in convolutions and dense layers.

  Batch norm and activations are not counted, as in the paper (arXiv 1801.04381, table
  4: 300 M for width 1.0 at 224 x 224). Model Garden's `try_count_flops` counts them.

  Args:
    model: Functional model (of functional models) with a fixed input size.
  """
  layers = [layer for layer in model.submodules if isinstance(layer, _COUNTED)]
  return sum(
    math.prod(layer.output_shape[1:-1]) * math.prod(kernel.shape)
    for layer in layers
    for kernel in layer.weights
    if kernel.shape.rank > 1  # no bias
  )


@functools.cache
def install_count() -> None:
  """Ends a run of Model Garden's drivers without counting operations again. Idempotent.

  After the last step `official.core.train_lib` traces and freezes the whole network, on
  the host and for seconds to a minute, for one line of the log. The table before the
  first step says the same, by `multiply_adds`. An export that names a file for the
  count has it.
  """
  count = train_utils.try_count_flops

  @functools.wraps(count)
  def only_for_export(
    model: Any,
    inputs_kwargs: dict[str, Any] | None = None,
    output_path: str | None = None,
  ) -> int | None:
    return count(model, inputs_kwargs, output_path) if output_path else None

  train_utils.try_count_flops = only_for_export
