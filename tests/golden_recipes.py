"""Weights and images of the golden files, drawn again from their seeds.

The golden files under tests/golden hold what slim's network computes from these
numbers. RandomState is numpy's frozen generator: the same bits on every version. Each
variable has a generator of its own, so that the order of drawing does not matter; all
draws are float64 and rounded to float32 once.
"""

import json
import pathlib
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "golden"
SCOPE = "MobilenetV2/"


_SLIM_LEAVES = {
  "kernel": "weights",
  "depthwise_kernel": "depthwise_weights",
  "pointwise_kernel": "pointwise_weights",
  "bias": "biases",
}


def load(name):
  """The arrays of a golden .npz by key, and its `meta` as a dictionary."""
  with np.load(GOLDEN / name) as arrays:
    by_key = {key: arrays[key] for key in arrays.files}
  return by_key, json.loads(str(by_key.pop("meta")))


def slim_name(variable_name):
  """Slim's name of a backbone variable, from the name that Keras gives it."""
  scope, leaf = variable_name.removesuffix(":0").rsplit("/", 1)
  return f"{SCOPE}{scope}/{_SLIM_LEAVES.get(leaf, leaf)}"


def _generator(name, seed):
  return np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)


def _normal(scale=1.0, mean=0.0):
  return lambda random, shape: random.standard_normal(shape) * scale + mean


def _uniform(low, high):
  return lambda random, shape: random.uniform(low, high, shape)


def _he(random, shape, fan_in):
  return random.standard_normal(shape) * np.sqrt(2.0 / fan_in)


_LOGITS = {
  "weights": lambda random, shape: _he(random, shape, np.prod(shape[:-1])),
  "pointwise_weights": lambda random, shape: _he(random, shape, np.prod(shape[:-1])),
  "depthwise_weights": lambda random, shape: _he(random, shape, shape[0] * shape[1]),
  "gamma": _uniform(0.6, 1.4),
  "beta": _normal(0.2, 0.1),
  "moving_mean": _normal(0.3),
  "moving_variance": _uniform(0.6, 1.6),
  "biases": _normal(0.1),
}
_INIT = {
  "weights": _normal(0.08),
  "depthwise_weights": _normal(0.08),
  "gamma": _normal(0.1, 1.0),
  "beta": _normal(0.1),
  "moving_mean": _normal(0.1),
  "moving_variance": _uniform(0.5, 1.5),
  "biases": _normal(0.1),
}


def _leaf(name):
  return name.rsplit("/", 1)[-1]


def draw_logits_weights(name, shape, seed):
  """Kernels of He's scale and lively batch-norm values: for logits and endpoints."""
  return _LOGITS[_leaf(name)](_generator(name, seed), shape).astype(np.float32)


def draw_nasnet_weights(name, shape, seed):
  """As for logits, with smaller kernels, since NASNet's cells add up their states."""
  drawn = draw_logits_weights(name, shape, seed)
  is_kernel = _leaf(name) == "depthwise_weights"
  is_kernel |= _leaf(name) == "weights" and len(shape) == 4
  return drawn * np.float32(0.7) if is_kernel else drawn


def nasnet_name(variable_name):
  """Slim's name of a variable of NASNet: without a scope before all of them."""
  return slim_name(variable_name).removeprefix(SCOPE)


def assign_nasnet_weights(variables, seed):
  """Sets variables of a NASNet, each to what the recipe draws for its slim name."""
  for variable in variables:
    name = nasnet_name(variable.name)
    variable.assign(draw_nasnet_weights(name, tuple(variable.shape), seed))


def assign_logits_weights(variables, seed):
  """Sets variables of a backbone, each to what the recipe draws for its slim name."""
  for variable in variables:
    name = slim_name(variable.name)
    variable.assign(draw_logits_weights(name, tuple(variable.shape), seed))


def draw_init_weights(name, shape, seed):
  """Values about as large as slim's own initial ones."""
  return _INIT[_leaf(name)](_generator(name, seed), shape).astype(np.float32)


def draw_train_weights(name, shape, seed):
  """Values from which 12 steps at learning rate 0.045 and batch 8 stay stable.

  Kernels before a batch norm are large, which makes their effective rate small; the
  head is small. From ordinary initial values, such a run is chaotic.
  """
  leaf = _leaf(name)
  random = _generator(name, seed)
  last = 1.0
  if leaf == "weights":
    gain = 0.024 if "/Logits/" in name else 4.0
    drawn = random.standard_normal(shape) * gain / np.sqrt(np.prod(shape[:-1]))
  elif leaf == "depthwise_weights":
    drawn = random.standard_normal(shape) * 1.5
  elif leaf == "beta":
    last = 0.15
    drawn = _normal(0.1, 0.0 if "/project/" in name else 0.3)(random, shape)
  else:
    last = 0.03 if leaf == "gamma" else 1.0
    drawn = _INIT[leaf](random, shape)
  return (drawn * (last if "/Conv_1/" in name else 1.0)).astype(np.float32)


def images(seed, batch, size, cells=4):
  """Blocks of colour under fine noise, float32 `[batch, size, size, 3]` in [-1, 1]."""
  random = np.random.RandomState(seed)
  coarse = random.uniform(-1, 1, (batch, cells, cells, 3))
  blocks = coarse.repeat(size // cells, axis=1).repeat(size // cells, axis=2)
  noise = random.standard_normal((batch, size, size, 3)) * 0.15
  return np.clip(blocks + noise, -1, 1).astype(np.float32)


def train_batch(seed, step, batch, size, classes):
  """Images as above, and int64 labels `[batch]`, of a step counted from 0."""
  labels = np.random.RandomState(seed + 2000 + step).randint(0, classes, batch)
  return images(seed + 1000 + step, batch, size), labels.astype(np.int64)


def checksum(value):
  """Sum, root of the sum of squares, first and last value, in float64.

  Compare with a tolerance of 1e-9 times the second: numpy's order of summation varies.
  """
  flat = np.asarray(value, np.float64).ravel()
  return np.array([flat.sum(), np.sqrt((flat * flat).sum()), flat[0], flat[-1]])
