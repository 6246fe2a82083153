"""Images per second of whole trainings against their bare step; or peak memory.

Each case is a process, and they take turns (`turns`). A whole training is the
trainer under the stock driver, between the ends of its second and its last loop: input,
metrics, summaries, but no checkpoint, of which an epoch of ImageNet has one. The bare
step is the task's in a `tf.function`, on one batch. Where the cores that train decode
too, nothing is faster than 1 / (1 / step + 1 / input).

  python benchmarks/whole_run.py --rounds=3
  python benchmarks/whole_run.py --memory --rounds=2
"""

import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import timeit
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import photographs
import turns
from absl import app, flags

_ROUNDS = flags.DEFINE_integer("rounds", 3, "Times that each is measured.")
_STEPS = flags.DEFINE_integer("steps", 10, "Steps of a loop, of which two count.")
_MEMORY = flags.DEFINE_bool("memory", False, "Whether to measure memory instead.")
_CASE = flags.DEFINE_string("case", "", "Of a process: kind, name, records, as JSON.")

IMAGES, LOOPS = 512, 3
SYNTHETIC, JPEGS = "training, one batch again and again", "training, JPEGs"
EVALUATION = "evaluation, JPEGs"
OURS, STOCK, BARE = "mnv2_hpu", "Model Garden", "mnv2_hpu's bare step"
INPUT, BOUND = "mnv2_hpu's input alone", "bound of step and input"
RATES = (
  *((SYNTHETIC, name) for name in (OURS, BARE, STOCK)),
  *((JPEGS, name) for name in (OURS, INPUT, BOUND, STOCK)),
)
MEMORY = tuple((kind, name) for kind in (JPEGS, EVALUATION) for name in (OURS, STOCK))


def _seconds_of_loops(trainer, model_dir):
  from official.core import train_lib

  ends = []
  train_lib.OrbitExperimentRunner(
    trainer.strategy, trainer.task, "train", trainer.config, model_dir, trainer=trainer,
    train_actions=[lambda logs: ends.append(time.perf_counter())],
  ).run()  # fmt: skip
  return ends[-1] - ends[0]


def _seconds(function, calls):
  timeit.timeit(function, number=4)  # traces, fills buffers
  return timeit.timeit(function, number=calls)


def _rate(kind, name, records):
  """Returns images per second of a case in this process; of an evaluation 0."""
  import tensorflow as tf
  import trainers

  from mnv2_hpu.distribute import variable_sync

  make = trainers.stock if name == STOCK else trainers.ours
  batch = tf.zeros([trainers.BATCH, 224, 224, 3]), tf.ones([trainers.BATCH], tf.int32)
  counted = (LOOPS - 1) * _STEPS.value
  with tempfile.TemporaryDirectory() as model_dir:
    build = functools.partial(make, records, model_dir, IMAGES)
    if kind == EVALUATION:
      trainer = build()
      # As the restore of a checkpoint does.
      variable_sync.create_slots(trainer.optimizer, trainer.model.trainable_variables)
      return trainer.evaluate(tf.constant(-1)) and 0.0
    if name == BARE:
      trainer = build()
      step = tf.function(trainer.task.train_step)
      networks = (trainer.model, trainer.optimizer)
      seconds = _seconds(lambda: step(batch, *networks)["loss"].numpy(), counted)
    elif name == INPUT:
      task = build().task
      images = iter(task.build_inputs(task.task_config.train_data))
      seconds = _seconds(lambda: next(images), 5 * counted) / 5
    else:
      same = tf.data.Dataset.from_tensors(batch).repeat()
      inputs = {"train_dataset": same} if kind == SYNTHETIC else {}
      trainer = build(loops=LOOPS, steps_per_loop=_STEPS.value, **inputs)
      seconds = _seconds_of_loops(trainer, model_dir)
  return counted * trainers.BATCH / seconds


def _measure(records, kind, name, found):
  """Returns images per second of a case, or the most MiB that its process had."""
  if name == BOUND:
    return 1 / (1 / found[SYNTHETIC, BARE] + 1 / found[JPEGS, INPUT])
  case = json.dumps([kind, name, records])
  command = [sys.executable, "-W", "ignore", __file__, f"--steps={_STEPS.value}"]
  printed = subprocess.check_output([*command, f"--case={case}"], text=True)
  rate, mib = json.loads(printed.splitlines()[-1])
  found[kind, name] = mib if _MEMORY.value else rate
  return found[kind, name]


def main(argv):
  """Measures, prints a table and keeps it; in a case's process prints its numbers."""
  del argv
  if _CASE.value:
    rate = _rate(*json.loads(_CASE.value))
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([rate, kib / 1024]))
    return
  name, title, unit, cases = "whole_run", "Whole trainings", "images/s", RATES
  if _MEMORY.value:
    name, title, unit, cases = "peak_memory", "Peak memory", "MiB", MEMORY
  found = {}
  with tempfile.TemporaryDirectory() as records:
    photographs.write_records(Path(records), IMAGES, 1001)
    measures = {
      case: functools.partial(_measure, records, *case, found) for case in cases
    }
    values = turns.take_turns(measures, _ROUNDS.value, warm_up=False)
  title += f": width 1.0, 224 px, batch 32, float32, loops of {_STEPS.value} steps"
  turns.publish(name, title, unit, values, more_is_better=not _MEMORY.value)


if __name__ == "__main__":
  app.run(main)
