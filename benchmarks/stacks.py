"""Seconds of the same work on two stacks: start-up, training steps, input, export.

Each measurement is a process of its own; the interpreters take turns round by round
(A B A B …), so a machine that slows down slows both. Prints medians, and the ratio of
the second interpreter to the first within each round (least to most).

  python benchmarks/stacks.py --pythons=.venv/bin/python,.venv-2.20/bin/python
"""

import os
import pathlib
import statistics
import subprocess
import tempfile
import time

from absl import app, flags

_PYTHONS = flags.DEFINE_list(
  "pythons", [".venv/bin/python", ".venv-2.20/bin/python"], "Interpreter of each stack."
)
_ROUNDS = flags.DEFINE_integer(
  "rounds", 5, "Measurements of each kind of work.", lower_bound=1
)
_MEASURE = flags.DEFINE_string("measure", "", "Work to do once, in this process.")
_RECORDS = flags.DEFINE_string("records", "", "Folder of the TFRecords to read.")

BATCH = 32
TRAINING_STEPS = 8
INPUT_BATCHES = 48
IMAGES, CLASSES = 512, 1001


def _seconds(function):
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def _start_up():
  """Imports TensorFlow and Model Garden, and registers."""

  def register():
    import mnv2_hpu

    mnv2_hpu.register()

  return _seconds(register)


def _classifier():
  from official.vision.modeling import classification_model

  from mnv2_hpu.compat import keras
  from mnv2_hpu.modeling import mobilenet_v2

  specs = keras.layers.InputSpec(shape=[None, 224, 224, 3])
  backbone = mobilenet_v2.MobileNetV2(input_specs=specs)
  return classification_model.ClassificationModel(backbone, CLASSES, specs)


def _training():
  """Steps at width 1.0 on synthetic images, once traced."""
  import tensorflow as tf

  from mnv2_hpu.compat import keras

  model = _classifier()
  optimizer = keras.optimizers.legacy.RMSprop(0.01, momentum=0.9)
  images, labels = tf.random.normal([BATCH, 224, 224, 3]), tf.zeros([BATCH], tf.int32)

  @tf.function
  def step():
    with tf.GradientTape() as tape:
      logits = model(images, training=True)
      loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    variables = model.trainable_variables
    gradients = tape.gradient(loss, variables)
    optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return loss

  step()
  return _seconds(lambda: [step() for _ in range(TRAINING_STEPS)][-1].numpy())


def _input():
  """Batches of this project's training input, after the first."""
  from mnv2_hpu.configs.image_classification import DataConfig
  from mnv2_hpu.dataloaders import classification_input

  data = DataConfig(
    input_path=f"{_RECORDS.value}/train-*",
    global_batch_size=BATCH,
    is_training=True,
    num_examples=IMAGES,
    shuffle_buffer_size=IMAGES,
  )
  batches = iter(classification_input.build_dataset(data, (224, 224), CLASSES))
  next(batches)
  return _seconds(lambda: [next(batches) for _ in range(INPUT_BATCHES)])


def _export():
  """Conversion to TFLite at width 1.0."""
  import tensorflow as tf

  return _seconds(tf.lite.TFLiteConverter.from_keras_model(_classifier()).convert)


def _versions():
  """Prints what is compared."""
  import platform

  import tensorflow as tf

  return f"TensorFlow {tf.__version__}, Python {platform.python_version()}"


WORK = {
  "import and register": _start_up,
  f"{TRAINING_STEPS} training steps of {BATCH} images": _training,
  f"{INPUT_BATCHES} batches of {BATCH} JPEGs": _input,
  "conversion to TFLite": _export,
}


def _run(python, work, records=""):
  """Does work in a process of an interpreter; returns the last line that it prints."""
  environ = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
  command = [python, __file__, f"--measure={work}", f"--records={records}"]
  done = subprocess.run(
    command, env=environ, stdout=subprocess.PIPE, text=True, check=True
  )
  return done.stdout.splitlines()[-1]


def _compare(work, records):
  rounds = [
    [float(_run(python, work, records)) for python in _PYTHONS.value]
    for _ in range(_ROUNDS.value)
  ]
  medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
  ratios = [second / first for first, second in rounds]
  return (
    f"{work:<36} {medians[0]:6.2f} s {medians[1]:6.2f} s  ratio "
    f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
  )


def main(argv):
  """Measures and prints a table; with `--measure`, one number."""
  del argv
  if _MEASURE.value:
    print({**WORK, "versions": _versions}[_MEASURE.value]())
    return
  import photographs  # TensorFlow, which a measurement imports by itself

  print(" against ".join(_run(python, "versions") for python in _PYTHONS.value))
  with tempfile.TemporaryDirectory() as records:
    photographs.write_records(pathlib.Path(records), IMAGES, CLASSES)
    for work in WORK:
      print(_compare(work, records), flush=True)


if __name__ == "__main__":
  app.run(main)
