"""How long TensorFlow takes to destroy an input iterator on a busy machine.

Python waits meanwhile, all its threads included. Iterators are kept for some seconds,
as an evaluation keeps its own, while other processes use the cores; then each is
destroyed in turn, those with tf.data's autotuning and those without.

  python benchmarks/iterator_pause.py --seconds=25 --iterators=12
"""

import multiprocessing
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import tensorflow as tf
from absl import app, flags

_SECONDS = flags.DEFINE_float("seconds", 25.0, "For which iterators are in use.")
_ITERATORS = flags.DEFINE_integer("iterators", 12, "Of each kind.")


def _be_busy():
  while True:
    pass


def _iterator(autotune):
  data = tf.data.Dataset.counter().map(
    lambda number: number + 1, num_parallel_calls=tf.data.AUTOTUNE
  )
  options = tf.data.Options()
  options.autotune.enabled = autotune
  return iter(data.prefetch(tf.data.AUTOTUNE).with_options(options))


def _pauses(iterators):
  """Seconds that destroying each took; the list is empty afterwards."""
  seconds = []
  while iterators:
    start = time.perf_counter()
    iterators.pop()
    seconds.append(time.perf_counter() - start)
  return seconds


def main(argv):
  """Measures and prints a line for each kind."""
  del argv
  cores = len(os.sched_getaffinity(0))
  busy = [
    multiprocessing.get_context("spawn").Process(target=_be_busy, daemon=True)
    for _ in range(cores)
  ]
  for process in busy:
    process.start()
  kinds = {
    autotune: [_iterator(autotune) for _ in range(_ITERATORS.value)]
    for autotune in (True, False)
  }
  end = time.monotonic() + _SECONDS.value
  while time.monotonic() < end:
    for iterators in kinds.values():
      for iterator in iterators:
        next(iterator)
    time.sleep(0.5)
  print(f"TensorFlow {tf.__version__}, {cores} cores, as many busy processes")
  for autotune, iterators in kinds.items():
    seconds = sorted(_pauses(iterators), reverse=True)
    print(
      f"  autotuning {'on' if autotune else 'off'}: {sum(s > 1 for s in seconds)} of "
      f"{len(seconds)} longer than a second; the longest "
      + ", ".join(f"{s:.2f}" for s in seconds[:4])
    )
  for process in busy:
    process.kill()


if __name__ == "__main__":
  app.run(main)
