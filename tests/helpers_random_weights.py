"""Weights with which a network says something, drawn from a seed."""

import numpy as np


def with_random_weights(model):
  """Sets weights that let features live, and batch statistics that are not 0 and 1."""
  rng = np.random.default_rng(0)
  for variable in model.variables:
    shape = variable.shape.as_list()
    fan_in = 9 if "depthwise" in variable.name else np.prod(shape[:-1])
    if len(shape) > 1:
      variable.assign(rng.normal(0, np.sqrt(2 / fan_in), shape))
    else:
      positive = "gamma" in variable.name or "variance" in variable.name
      variable.assign(
        rng.uniform(0.6, 1.4, shape) if positive else rng.normal(0.1, 0.2, shape)
      )
  return model
