"""Inner loops in chunks, between which all ranks agree to stop at the same step.

A chunk lasts about a second, so that a launcher which allows few seconds between a
SIGTERM and a SIGKILL (horovodrun 5) finds the checkpoint written. Open MPI 5 allows
less than one; but it hands SIGUSR1 on and waits: this signal requests the same.

After each chunk the ranks send each other two numbers: whether a stop was requested,
and how many steps the next chunk has. Chunks change no result.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mnv2_hpu.core import termination
from mnv2_hpu.distribute import ranks

# Ratio of the steps of a chunk to those of the one before it.
_MAX_GROWTH = 4


class Chunks:
  """Divides steps into chunks that last about as long on every rank.

  Args:
    strategy: Strategy of all ranks.
    stop: Request of this process, looked at after each chunk.
    seconds: Length of a chunk.
    on_chunk_end: Called at the end of each chunk.
  """

  def __init__(
    self,
    strategy: tf.distribute.Strategy,
    stop: termination.StopRequest,
    seconds: float,
    on_chunk_end: Callable[[], None],
  ) -> None:
    self._strategy = strategy
    self._stop = stop
    self._seconds = seconds
    self._on_chunk_end = on_chunk_end
    self.steps = 1  # length of the current chunk
    self._done = 0
    self._start = time.monotonic()

  def begin(self) -> None:
    """Starts the clock of a chunk."""
    self._done = 0
    self._start = time.monotonic()

  def add_step(self) -> None:
    """Counts a step, and ends the chunk with its last one.

    Raises:
      Preempted: On all ranks, if one of them was asked to stop.
    """
    self._done += 1
    if self._done >= self.steps:
      self.end(self._done)

  def end(self, steps: int) -> None:
    """Ends a chunk of so many steps and begins the next one.

    Raises:
      Preempted: On all ranks, if one of them was asked to stop.
    """
    a_step = (time.monotonic() - self._start) / max(1, steps)
    wanted = max(1, min(int(self._seconds / max(a_step, 1e-6)), _MAX_GROWTH * steps))
    own = np.array([self._stop.is_set, wanted], np.int64)
    by_rank = ranks.gather(self._strategy, own)
    self.steps = int(by_rank[0, 1])
    self._on_chunk_end()
    if by_rank[:, 0].any():
      raise termination.Preempted
    self.begin()


def run_in_chunks(
  loop: Callable[[Any, tf.Tensor], Any], chunks: Chunks
) -> Callable[[Any, tf.Tensor], None]:
  """Returns orbit's inner loop `loop(iterator, num_steps)`, run in chunks.

  A loop of no steps is a chunk too: a stop request ends it.
  """

  def run(iterator: Any, num_steps: tf.Tensor) -> None:
    left = int(num_steps)
    chunks.begin()
    while True:
      steps = min(left, chunks.steps)
      if steps > 0:
        loop(iterator, tf.constant(steps, tf.int32))
      left -= steps
      chunks.end(steps)
      if left <= 0:
        return

  return run
