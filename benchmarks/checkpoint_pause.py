"""Milliseconds that a training stands still for a checkpoint: ours and the driver's.

Both hold MobileNetV2 1.0 with slots and EMA weights. Ours refers to the variables'
values and leaves them to a thread, which waits until the disk has them; Model Garden's
driver writes into the cache of the operating system, by itself or by TensorFlow's
thread.

  python benchmarks/checkpoint_pause.py --rounds=9
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

_ROUNDS = flags.DEFINE_integer(
  "rounds", 9, "Times that each is measured.", lower_bound=1
)


def _milliseconds(checkpoint, prefix, **options):
  start = time.perf_counter()
  checkpoint.save(prefix, options=tf.train.CheckpointOptions(**options))
  seconds = time.perf_counter() - start
  checkpoint.sync()  # the thread's work is not the next one's
  return 1000 * seconds


def main(argv):
  """Measures, prints a table and keeps it."""
  del argv
  with tempfile.TemporaryDirectory() as work:
    records = Path(work, "records")
    records.mkdir()
    photographs.write_records(records, 64, trainers.CLASSES)
    trainer = trainers.ours(records, Path(work, "run"), 64)
    items = {"global_step": trainer.global_step, "model": trainer.model}
    stock = tf.train.Checkpoint(**items, optimizer=trainer.optimizer)
    cases = {
      "mnv2_hpu": (trainer.checkpoint, {}),
      "the driver, synchronous": (stock, {}),
      "the driver, asynchronous": (
        tf.train.Checkpoint(**items, optimizer=trainer.optimizer),
        {"experimental_enable_async_checkpoint": True},
      ),
    }
    measures = {
      ("a checkpoint", name): functools.partial(
        _milliseconds, checkpoint, f"{work}/{number}/ckpt", **options
      )
      for number, (name, (checkpoint, options)) in enumerate(cases.items())
    }
    values = turns.take_turns(measures, _ROUNDS.value)
  turns.publish(
    "checkpoint_pause",
    "A checkpoint: MobileNetV2 1.0 with slots and EMA weights",
    "ms that training stands still",
    values,
    more_is_better=False,
  )


if __name__ == "__main__":
  app.run(main)
