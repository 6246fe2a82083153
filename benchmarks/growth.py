"""How time and memory grow with width, resolution, batch and images; writes a plot.

Each point is a process of its own. Training and evaluation are steps on random images;
import reads Keras Applications' file of that width; preparation is `mnv2-prepare-data`
of small JPEGs, on as many processes as it chooses. A slope is that of the logarithms: 1
is linear, above 1.1 would be worse. Ranks: `benchmarks/processes.py`.

  python benchmarks/growth.py        # docs/growth.png, some 5 minutes
"""

import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import turns
from absl import app, flags

_ROUNDS = flags.DEFINE_integer(
  "rounds", 1, "Times that each point is measured.", lower_bound=1
)
_POINT = flags.DEFINE_string("point", "", "Internal: measures one point, as JSON.")

PLOT = turns.RESULTS.parent / "growth.png"
USUAL = {"width": 1.0, "size": 160, "batch": 16}
# What grows, the values, and what cost is linear in.
AXES = {
  "width": ((0.35, 0.75, 1.4), "multiply-adds, about width squared", 2),
  "size": ((96, 160, 224), "pixels, the side squared", 2),
  "batch": ((8, 24, 64), "images a step", 1),
  "images": ((8_000, 16_000, 32_000), "images prepared", 1),
}
STEPS = 4


def _steps(work, width, size, batch):
  """Seconds of a step, after one that traces."""
  import tensorflow as tf
  from official.vision.modeling import classification_model

  from mnv2_hpu.compat import keras
  from mnv2_hpu.modeling import mobilenet_v2

  specs = keras.layers.InputSpec(shape=[None, size, size, 3])
  backbone = mobilenet_v2.MobileNetV2(width_multiplier=width, input_specs=specs)
  model = classification_model.ClassificationModel(backbone, 1001, specs)
  images = tf.random.normal([batch, size, size, 3])

  @tf.function
  def train():
    with tf.GradientTape() as tape:
      loss = tf.reduce_logsumexp(model(images, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    return tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])

  evaluate = tf.function(lambda: model(images, training=False))
  step = {"training": train, "evaluation": evaluate}[work]
  step()
  start = time.perf_counter()
  for _ in range(STEPS):
    step().numpy()
  return (time.perf_counter() - start) / STEPS


def _import(width, **unused):
  """Seconds of `load_pretrained`, the building of its network included."""
  del unused
  from mnv2_hpu import checkpoints
  from mnv2_hpu.compat import keras

  with tempfile.TemporaryDirectory() as work:
    path = f"{work}/network.h5"
    keras.applications.MobileNetV2(alpha=width, weights=None).save(path)
    start = time.perf_counter()
    checkpoints.load_pretrained(path)
    return time.perf_counter() - start


def _preparation(images):
  import photographs

  from mnv2_hpu.data_preparation import prepare

  with tempfile.TemporaryDirectory() as work:
    data = photographs.jpeg(np.random.default_rng(0), 240, 320)
    for index in range(images):
      path = Path(work, "images", f"{index % 10}", f"{index:06d}.jpg")
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(data)
    start = time.perf_counter()
    prepare.prepare(prepare.PreparationOptions(f"{work}/images", f"{work}/out"))
    return time.perf_counter() - start


def _point(work, values):
  """Prints seconds and MiB at most of this process, of preparation without workers'."""
  measure = {"preparation": _preparation, "import": _import}.get(work)
  seconds = measure(**values) if measure else _steps(work, **values)
  memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  print(json.dumps([seconds, memory]))


def _measure(work, values):
  """Returns median seconds and MiB of processes of their own."""
  command = [sys.executable, "-W", "ignore", __file__]
  point = json.dumps([work, values])
  environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
  runs = [
    subprocess.run(
      [*command, f"--point={point}"],
      env=environ,
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    )
    for _ in range(_ROUNDS.value)
  ]
  values = [json.loads(run.stdout.splitlines()[-1]) for run in runs]
  return [statistics.median(column) for column in zip(*values, strict=True)]


def _works(axis):
  if axis == "images":
    return ("preparation",)
  return ("training", "evaluation", *(["import"] if axis == "width" else []))


def _plot(measured):
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  figure, rows = pyplot.subplots(2, len(AXES), figsize=(4 * len(AXES), 6))
  for (axis, column), (row, unit) in itertools.product(
    zip(AXES, range(len(AXES)), strict=True), enumerate(("seconds", "MiB at most"))
  ):
    points, label, power = AXES[axis]
    plot = rows[row][column]
    for work in _works(axis):
      plot.plot(
        [x**power for x in points],
        [m[row] for m in measured[axis, work]],
        "o-",
        label=work,
      )
    plot.set_ylim(bottom=0)
    plot.set_xlabel(label)
    plot.set_ylabel(unit)
    plot.legend()
  figure.tight_layout()
  figure.savefig(PLOT, dpi=80)


def main(argv):
  """Measures every point, prints slopes and writes the plot."""
  del argv
  if _POINT.value:
    _point(*json.loads(_POINT.value))
    return
  measured = {}
  for axis, (points, label, power) in AXES.items():
    for work in _works(axis):
      values = [
        _measure(work, {axis: x} if axis == "images" else {**USUAL, axis: x})
        for x in points
      ]
      measured[axis, work] = values
      logs = np.log([x**power for x in points])
      slope = np.polyfit(logs, np.log([seconds for seconds, _ in values]), 1)[0]
      cells = ", ".join(
        f"{x:g}: {s:.3f} s, {m:.0f} MiB"
        for x, (s, m) in zip(points, values, strict=True)
      )
      print(f"{work} against {label}: slope {slope:.2f}; {cells}", flush=True)
  _plot(measured)
  print(f"wrote {PLOT}")


if __name__ == "__main__":
  app.run(main)
