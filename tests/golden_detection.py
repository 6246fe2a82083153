"""Weights, boxes and predictions of SSDLite's golden files, drawn again from seeds.

The files under tests/golden/ssdlite hold what the TF1 Object Detection API (or, where a
key says float64, numpy alone) computes from these numbers.
"""

import json

import numpy as np
import tensorflow as tf
from golden_recipes import GOLDEN, _generator, _he, _normal, _uniform

_WEIGHTS = {
  "weights": lambda random, shape: _he(random, shape, np.prod(shape[:-1])),
  "depthwise_weights": lambda random, shape: _he(random, shape, shape[0] * shape[1]),
  "gamma": _uniform(0.6, 1.4),
  "beta": _normal(0.2, 0.1),
  "moving_mean": _normal(0.3),
  "moving_variance": _uniform(0.6, 1.6),
  "biases": _normal(0.1),
}


def load(name):
  """The arrays of a golden file by key, and its `meta`."""
  with np.load(GOLDEN / "ssdlite" / name) as arrays:
    by_key = {key: arrays[key] for key in arrays.files}
  return by_key, json.loads(str(by_key.pop("meta", "{}")))


def architectures():
  """Counts of each network by `size_width_classes`."""
  return json.loads((GOLDEN / "ssdlite" / "arch.json").read_text())


def draw_weights(name, shape, seed):
  """A variable of the network, by the API's name of it."""
  *_, scope, leaf = name.split("/")
  value = _WEIGHTS[leaf](_generator(name, seed), shape)
  if leaf == "weights" and scope in ("ClassPredictor", "BoxEncodingPredictor"):
    value = value * 0.3
  if leaf == "biases" and scope == "ClassPredictor":
    value = value - 2.0
  return value.astype(np.float32)


def write_checkpoint(path, steps, ema=True):
  """As the API writes it: raw weights, their EMA (here 1 more), slots, the step."""
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    saved = {"global_step": tf.Variable(steps, dtype=tf.int64)}
    for name, shape in architectures()["160_0.35_7"]["variables"]:
      drawn = draw_weights(name, tuple(shape), 1300)
      saved[name] = tf.Variable(drawn)
      if ema and not name.rpartition("/")[2].startswith("moving_"):
        saved[f"{name}/ExponentialMovingAverage"] = tf.Variable(drawn + 1)
        saved[f"{name}/RMSProp"] = tf.Variable(drawn)
    session.run(tf.compat.v1.global_variables_initializer())
    tf.compat.v1.train.Saver(saved).save(session, path)


def boxes(seed, count, num_classes):
  """float32 boxes `[count, 4]` inside the image, and int64 classes from 0 on."""
  random = np.random.RandomState(seed)
  scale = np.exp(random.uniform(np.log(0.04), np.log(0.8), (count, 1)))
  size = np.clip(scale * np.exp(random.uniform(-0.5, 0.5, (count, 2))), 0.02, 0.95)
  corner = random.uniform(0, 1, (count, 2)) * (1 - size)
  drawn = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
  return drawn, random.randint(0, num_classes, count)


def step_boxes(seed, step, batch, num_classes):
  """Boxes and classes of each image of a training step, padded to 12; class -1."""
  padded_boxes = np.zeros((batch, 12, 4), np.float32)
  padded_classes = np.full((batch, 12), -1)
  for image in range(batch):
    count = (3, 1, 7, 0, 12)[image % 5]
    drawn, classes = boxes(seed + 100 * step + image, count, num_classes)
    padded_boxes[image, :count], padded_classes[image, :count] = drawn, classes
  return padded_boxes, padded_classes


def predictions(seed, batch, num_anchors, num_classes):
  """Encodings `[batch, anchors, 4]` and logits, as of an untrained network."""
  random = np.random.RandomState(seed)
  encodings = random.standard_normal((batch, num_anchors, 4)) * [1.5, 1.5, 1.0, 1.0]
  logits = random.standard_normal((batch, num_anchors, num_classes + 1)) * 1.5 - 3.0
  return encodings.astype(np.float32), logits.astype(np.float32)


def confident_predictions(seed, batch, num_anchors, num_classes, peaks=40, run=6):
  """Likewise, with runs of neighbouring anchors that are sure of one class."""
  random = np.random.RandomState(seed)
  encodings = random.standard_normal((batch, num_anchors, 4)) * 0.4
  logits = random.standard_normal((batch, num_anchors, num_classes + 1)) * 0.5 - 9.0
  for image in range(batch):
    start = random.randint(0, num_anchors - run, peaks)
    label = random.randint(1, num_classes + 1, peaks)
    score = random.uniform(-2.0, 3.0, (peaks, run))
    for peak in range(peaks):
      logits[image, start[peak] : start[peak] + run, label[peak]] = score[peak]
  return encodings.astype(np.float32), logits.astype(np.float32)


def images(seed, batch, size, cells=5):
  """Blocks of colour under fine noise, float32 `[batch, size, size, 3]` in [-1, 1]."""
  random = np.random.RandomState(seed)
  coarse = random.uniform(-1, 1, (batch, cells, cells, 3))
  side = -(-size // cells)
  blocks = coarse.repeat(side, axis=1).repeat(side, axis=2)[:, :size, :size]
  noise = random.standard_normal((batch, size, size, 3)) * 0.15
  return np.clip(blocks + noise, -1, 1).astype(np.float32)


def checksum(values):
  """Sum and root of the sum of squares, in float64."""
  flat = np.asarray(values, np.float64).ravel()
  return np.array([flat.sum(), np.sqrt(flat @ flat)])


def uint8_image(seed, height, width):
  """A smooth image with noise, `[height, width, 3]`."""
  random = np.random.RandomState(seed)
  y = np.linspace(0, 1, height)[:, None, None]
  x = np.linspace(0, 1, width)[None, :, None]
  f = random.uniform(1, 6, (4, 3))
  values = np.sin(f[0] * y * 3 + f[1]) * np.cos(f[2] * x * 3 + f[3])
  values = 127.5 + 100 * values + random.standard_normal((height, width, 3)) * 12
  return np.clip(np.round(values), 0, 255).astype(np.uint8)
