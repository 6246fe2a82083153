"""Images per second of this network, Model Garden's, Keras Applications' and PyTorch's.

The networks take turns (`turns`): one process, and PyTorch in one of its own (`peers`).
All use all cores.

  python benchmarks/network_speed.py --batch_size=32 --image_size=224 --rounds=5

`TF_ENABLE_ONEDNN_OPTS=0` or `1` before the command compares with and without oneDNN.
"""

import functools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import peers
import tensorflow as tf
import turns
from absl import app, flags
from official.vision.modeling import backbones, classification_model

from mnv2_hpu.compat import keras
from mnv2_hpu.modeling import mobilenet_v2

_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images per step.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "Height and width, in pixels.")
_ROUNDS = flags.DEFINE_integer(
  "rounds", 5, "Times that every network is measured.", lower_bound=1
)
_STEPS = flags.DEFINE_integer("steps", 4, "Steps of one measurement.")

CLASSES = 1001
PYTORCH = "PyTorch, Hugging Face's, channels last"


def _classifier(backbone):
  """Puts Model Garden's classification head on a backbone."""
  size = _IMAGE_SIZE.value
  specs = keras.layers.InputSpec(shape=[None, size, size, 3])
  return classification_model.ClassificationModel(backbone, CLASSES, specs)


def _specs():
  size = _IMAGE_SIZE.value
  return keras.layers.InputSpec(shape=[None, size, size, 3])


NETWORKS = {
  "mnv2_hpu": lambda: _classifier(mobilenet_v2.MobileNetV2(input_specs=_specs())),
  "Model Garden": lambda: _classifier(
    backbones.MobileNet("MobileNetV2", input_specs=_specs())
  ),
  "Keras Applications": lambda: keras.applications.MobileNetV2(
    (_IMAGE_SIZE.value, _IMAGE_SIZE.value, 3), weights=None, classes=CLASSES,
    classifier_activation=None,
  ),
}  # fmt: skip


def _functions(model):
  """Returns a training step and an inference step of a network."""
  optimizer = keras.optimizers.legacy.SGD(0.01, momentum=0.9)
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

  @tf.function
  def train(images, labels):
    with tf.GradientTape() as tape:
      value = loss(labels, model(images, training=True))
    variables = model.trainable_variables
    gradients = tape.gradient(value, variables)
    optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return value

  @tf.function
  def infer(images, labels):
    del labels
    return model(images, training=False)

  return {"training step": train, "inference": infer}


def _rate(function, batch):
  """Images per second over a few steps."""
  start = time.perf_counter()
  for _ in range(_STEPS.value):
    result = function(*batch)
  result.numpy()
  return _STEPS.value * _BATCH_SIZE.value / (time.perf_counter() - start)


def _peer_rate(seconds):
  return _BATCH_SIZE.value / seconds()


def _measures(peer):
  """Returns what measures each network, by kind and name."""
  size, count = _IMAGE_SIZE.value, _BATCH_SIZE.value
  batch = (tf.random.normal([count, size, size, 3]), tf.zeros([count], tf.int32))
  functions = {name: _functions(build()) for name, build in NETWORKS.items()}
  measures = {}
  for kind in ("training step", "inference"):
    for name in NETWORKS:
      measures[kind, name] = functools.partial(_rate, functions[name][kind], batch)
    if peer:
      seconds = peer.seconds(kind, _STEPS.value, count, size)
      measures[kind, PYTORCH] = functools.partial(_peer_rate, seconds)
  return measures


def main(argv):
  """Measures, prints a table and keeps it."""
  del argv
  one_dnn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "as installed")
  with peers.Peers() as peer:
    values = turns.take_turns(_measures(peer), _ROUNDS.value)
  turns.publish(
    "network_speed",
    f"The network: batch {_BATCH_SIZE.value}, {_IMAGE_SIZE.value} px, float32, "
    f"{peers.num_threads()} threads, oneDNN {one_dnn}",
    "images/s",
    values,
    more_is_better=True,
    peer_versions=peer.versions,
  )


if __name__ == "__main__":
  app.run(main)
