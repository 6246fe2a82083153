"""Images per second of a whole evaluation: this project's trainer and Model Garden's.

In one process the trainers take turns (`turns`): JPEGs of ImageNet's sizes through the
input, MobileNetV2 1.0 at 224 px and the metrics, each image once, EMA weights.

  python benchmarks/evaluation_speed.py --rounds=5
"""

import functools
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import photographs
import tensorflow as tf
import trainers
import turns
from absl import app, flags

_IMAGES = flags.DEFINE_integer("images", 2048, "JPEGs that are made and evaluated.")
_ROUNDS = flags.DEFINE_integer(
  "rounds", 5, "Times that each is measured.", lower_bound=1
)


def _rate(trainer):
  start = time.perf_counter()
  trainer.evaluate(tf.constant(-1))
  return _IMAGES.value / (time.perf_counter() - start)


def main(argv):
  """Measures, prints a table and keeps it."""
  del argv
  count = _IMAGES.value
  with tempfile.TemporaryDirectory() as work:
    records = Path(work, "records")
    records.mkdir()
    photographs.write_records(records, count, trainers.CLASSES)
    built = {
      name: make(records, Path(work, name), count)
      for name, make in (("mnv2_hpu", trainers.ours), ("Model Garden", trainers.stock))
    }
    measures = {
      ("evaluation", name): functools.partial(_rate, trainer)
      for name, trainer in built.items()
    }
    values = turns.take_turns(measures, _ROUNDS.value)
  turns.publish(
    "evaluation_speed",
    f"Evaluation: {count} JPEGs, 224 px, width 1.0, float32, batch {trainers.BATCH}",
    "images/s",
    values,
    more_is_better=True,
  )


if __name__ == "__main__":
  app.run(main)
