"""The network of an export: its batch norms are folded into the convolutions, once."""

import tensorflow as tf

from mnv2_hpu.compat import keras
from mnv2_hpu.tasks import folded_inference


class FoldedNetwork:
  """A trained network that computes the same with fewer operations and variables.

  Attributes:
    variables: What it reads.
  """

  def __init__(self, model: keras.Model) -> None:
    """Folds what can be folded: nothing of a quantized network.

    Args:
      model: Network of this project, which stays as it is.
    """
    self._model = model
    replaced = set()
    self._weights = []
    for pair in folded_inference.pairs(model):
      replaced |= {variable.ref() for layer in pair for variable in layer.variables}
      kernel, bias = folded_inference.fold(*pair, tf.float64)
      name, dtype = pair[0].name, pair[0].dtype
      self._weights.append(
        (
          tf.Variable(tf.cast(kernel, dtype), trainable=False, name=f"{name}/kernel"),
          tf.Variable(tf.cast(bias, dtype), trainable=False, name=f"{name}/bias"),
        )
      )
    self.variables: list[tf.Variable] = [
      *(variable for variable in model.variables if variable.ref() not in replaced),
      *(weight for weights in self._weights for weight in weights),
    ]

  def __call__(self, inputs: tf.Tensor, training: bool = False) -> object:
    """Returns what the network computes in inference.

    Args:
      inputs: float32 `[batch, height, width, 3]`.
      training: Must be False.
    """
    assert not training
    with folded_inference.folded_batch_norms(self._model, self._weights):
      return self._model(inputs, training=False)
