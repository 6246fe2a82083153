"""SIGTERM: noticed between steps, by all ranks at the same one.

Training runs in parts of about a second, so that a launcher which allows few seconds
before it kills (horovodrun 5) finds the checkpoint written. Open MPI 5 allows less
than one; but it hands SIGUSR1 on and waits: this signal asks for the same.

After each part the ranks exchange two numbers: whether anybody was asked to stop, and
how many steps the next part has. The parts change no result.
"""

import atexit
import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

import gin
import numpy as np
import tensorflow as tf

from mnv2_hpu.distribute import ranks

# Exit codes of a training process. 0 is the end of the training, 1 an error that the
# output names. A process that a signal ended shows as 128 plus its number in a shell,
# and as the negative number in Python.
EXIT_PREEMPTED = 143  # stop requested; a checkpoint was saved. 128 + 15
EXIT_PEER_LOST = (
  75  # another rank is gone, or nothing moves: start all again (EX_TEMPFAIL)
)

_GROWTH = 4  # of a part over the one before it, at most
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_EXIT_SECONDS = 10  # for what runs at exit, once the checkpoint is written


@gin.configurable(module="mnv2_hpu")
@dataclasses.dataclass(frozen=True)
class FaultSettings:
  """Bind in gin as `mnv2_hpu.FaultSettings.missing_rank_seconds = 90`.

  Attributes:
    seconds_between_checks: how long training and evaluation go on, at most and
      roughly, before they notice a SIGTERM: the length of a part of an inner loop.
    missing_rank_seconds: Seconds without a heartbeat of another rank, after which
      the others end. A rank whose process has ended is noticed at once. Below 62 a
      healthy rank may be taken for a missing one: while TensorFlow 2.15 destroys an
      iterator, for up to 60 seconds (docs/multi_card.md), no thread of Python runs.
    stall_warning_seconds: after so long without a finished step, where it is stuck is
      logged, again and again.
    stall_seconds: after so long without a finished step the process ends; 0 never.
      The first step of a large graph may take long to compile.
  """

  seconds_between_checks: float = 1.0
  missing_rank_seconds: float = 75.0
  stall_warning_seconds: float = 120.0
  stall_seconds: float = 1800.0


class Terminated(BaseException):
  """All ranks have agreed to stop where they are; like `SystemExit` no error."""


class Termination:
  """Whether this process was asked to stop, by SIGTERM or SIGUSR1.

  Before `begin` there is nothing to save and the process ends at once. A second signal
  ends it at once at any time.
  """

  def __init__(self) -> None:
    self.is_requested = False
    self._has_begun = False

  def listen(self) -> None:
    """Takes over the signals; outside of the main thread they stay as they are."""
    if threading.current_thread() is threading.main_thread():
      for number in _SIGNALS:
        signal.signal(number, self._on_signal)

  def begin(self) -> None:
    """Says that there is something to save now."""
    self._has_begun = True

  def _on_signal(self, number: int, frame: FrameType | None) -> None:
    del frame
    for each in _SIGNALS:
      signal.signal(each, signal.SIG_DFL)
    self.is_requested = True
    if not self._has_begun:
      sys.exit(EXIT_PREEMPTED)
    # Not print: the signal may have come in the middle of one.
    name = signal.Signals(number).name
    text = f"{name}: a checkpoint will be saved, then this process ends.\n"
    os.write(2, text.encode())


def end_process() -> NoReturn:
  """Ends the process with the code of a termination, once what is to run at exit has.

  Python's own way tears down TensorFlow's iterators too, which may keep the whole
  process for a minute (docs/benchmarks.md); who sent a SIGTERM waits seconds.
  """
  # Exit functions may wait for another rank that is stuck.
  timer = threading.Timer(_EXIT_SECONDS, os._exit, (EXIT_PREEMPTED,))
  timer.daemon = True
  timer.start()
  atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(EXIT_PREEMPTED)


class Parts:
  """Divides steps into parts that last about as long on every rank.

  Args:
    strategy: of all ranks.
    termination: asked after each part.
    seconds: how long a part is to last.
    after_part: called at the end of each part.
  """

  def __init__(
    self,
    strategy: tf.distribute.Strategy,
    termination: Termination,
    seconds: float,
    after_part: Callable[[], None],
  ) -> None:
    self._strategy = strategy
    self._termination = termination
    self._seconds = seconds
    self._after_part = after_part
    self.steps = 1  # of the part that begins now
    self._start = time.monotonic()

  def begin(self) -> None:
    """Starts the clock of a part."""
    self._start = time.monotonic()

  def end(self, steps: int) -> None:
    """Ends a part of so many steps and begins the next one.

    Raises:
      Terminated: on all ranks, if one of them was asked to stop.
    """
    a_step = (time.monotonic() - self._start) / steps
    wanted = max(1, min(int(self._seconds / max(a_step, 1e-6)), _GROWTH * steps))
    own = np.array([self._termination.is_requested, wanted], np.int64)
    by_rank = ranks.gather(self._strategy, own)
    self.steps = int(by_rank[0, 1])
    self._after_part()
    if by_rank[:, 0].any():
      raise Terminated
    self.begin()


def in_parts(
  loop: Callable[[Any, tf.Tensor], Any], parts: Parts
) -> Callable[[Any, tf.Tensor], None]:
  """Returns orbit's inner loop `loop(iterator, num_steps)`, run in parts."""

  def run(iterator: Any, num_steps: tf.Tensor) -> None:
    left = int(num_steps)
    parts.begin()
    while left > 0:
      steps = min(left, parts.steps)
      loop(iterator, tf.constant(steps, tf.int32))
      left -= steps
      parts.end(steps)

  return run
