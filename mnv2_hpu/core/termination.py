"""How a training process ends: exit codes, requests to stop, and no slow teardown."""

import atexit
import dataclasses
import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

import gin

# 0 is the end of the training, 1 an error that the output names. A process that a
# signal ended shows as 128 plus its number in a shell, and as the negative number in
# Python.
EXIT_PREEMPTED = 143  # stop requested, and a checkpoint saved: 128 + SIGTERM
EXIT_PEER_LOST = 75  # a rank is gone, or nothing moves: start again (EX_TEMPFAIL)
_EXIT_INTERRUPTED = 130

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_MAX_EXIT_SECONDS = 10  # for the functions that run at exit
_ending = threading.Event()
_finished = threading.Event()  # the training of this process
_exit_code = 0  # with which the process ends, once `_ending` is set


@gin.configurable(module="mnv2_hpu")
@dataclasses.dataclass(frozen=True)
class FaultSettings:
  """Bind in gin as `mnv2_hpu.FaultSettings.missing_rank_seconds = 90`.

  Attributes:
    seconds_between_checks: Seconds, roughly and at most, that training and evaluation
      go on before they notice a SIGTERM: the length of a chunk of an inner loop.
    missing_rank_seconds: Seconds without a heartbeat of another rank, after which the
      others end. A rank whose process has ended is noticed at once. Below 62 a healthy
      rank may be taken for a missing one: while TensorFlow 2.15 destroys an iterator,
      for up to 60 seconds (docs/multi_device.md), no thread of Python runs.
    stop_seconds: Seconds after a SIGTERM in which a step that is under way may end;
      then the process ends without a checkpoint of it.
    stall_warning_seconds: Seconds without a finished step between two log messages
      that say where the training is stuck.
    stall_seconds: Seconds without a finished step after which the process ends; 0
      never. The first step of a large graph may take long to compile.
  """

  seconds_between_checks: float = 1.0
  missing_rank_seconds: float = 75.0
  stop_seconds: float = 75.0
  stall_warning_seconds: float = 120.0
  stall_seconds: float = 1800.0


class Preempted(BaseException):
  """All ranks have agreed to stop where they are; no error, like `SystemExit`."""


class StopRequest:
  """Whether this process was asked to stop, by SIGTERM or SIGUSR1.

  Before `defer` there is nothing to save and the process ends at once. A second signal
  ends it at once at any time.

  Args:
    max_seconds: Seconds that Python may need to run the handler of a signal: it waits
      for an operation of TensorFlow, which may never end, as where its input's service
      is gone.
  """

  def __init__(self, max_seconds: float = FaultSettings.stop_seconds) -> None:
    self.is_set = False
    self._max_seconds = max_seconds
    self._is_deferred = False

  def listen(self) -> None:
    """Handles the signals; outside of the main thread they stay as they are."""
    if threading.current_thread() is threading.main_thread():
      for number in _SIGNALS:
        signal.signal(number, self._on_signal)
      ends = socket.socketpair()
      ends[1].setblocking(False)
      signal.set_wakeup_fd(ends[1].fileno(), warn_on_full_buffer=False)
      threading.Thread(target=self._end_if_stuck, args=ends, daemon=True).start()

  def _end_if_stuck(self, received: socket.socket, kept: socket.socket) -> None:
    """Ends the process where a signal has come, but its handler does not run."""
    del kept  # the thread keeps it open: the system writes the signals into it
    while received.recv(1)[0] not in _SIGNALS:
      pass
    time.sleep(self._max_seconds)
    if not self.is_set:
      text = (
        f"No step ended within {self._max_seconds:g} seconds of the signal: ends.\n"
      )
      os.write(2, text.encode())
      end_process(EXIT_PEER_LOST)

  def defer(self) -> None:
    """From now on a request waits until the trainer looks: there is state."""
    self._is_deferred = True

  def _on_signal(self, number: int, frame: FrameType | None) -> None:
    del frame
    for each in _SIGNALS:
      signal.signal(each, signal.SIG_DFL)
    self.is_set = True
    if not self._is_deferred:
      sys.exit(EXIT_PREEMPTED)
    # Not print: the signal may have come in the middle of one.
    name = signal.Signals(number).name
    text = f"{name}: a checkpoint will be saved, then this process ends.\n"
    os.write(2, text.encode())


@functools.cache
def _start_deadline(process_id: int) -> None:
  """Starts the thread that ends this process if its exit functions do not return.

  They may wait for another rank that is stuck. Python 3.12 starts no thread once they
  run.
  """
  del process_id  # a forked child needs a thread of its own

  def end_in_time() -> None:
    _ending.wait()
    time.sleep(_MAX_EXIT_SECONDS)
    os._exit(_exit_code)

  threading.Thread(target=end_in_time, daemon=True).start()


def end_process(code: int) -> NoReturn:
  """Runs what is to run at exit, then ends the process without Python's teardown.

  The teardown destroys TensorFlow's iterators too, which may keep the whole process for
  a minute (docs/benchmarks.md).
  """
  global _exit_code
  _exit_code = code
  _start_deadline(os.getpid())
  _ending.set()
  atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def mark_finished() -> None:
  """Notes that the training has finished: what follows is the end of its driver."""
  _finished.set()


def skip_teardown_at_exit(keep: Any) -> None:
  """Makes this program end by `end_process`, with the exit code that it has anyway.

  Python shows the code of a program to nobody, so `sys.exit` is wrapped to learn it. A
  program that looked `sys.exit` up before this call, as `sys.exit(main())` does, ends
  by Python's own teardown, unless the training has finished (`mark_finished`): such a
  driver ends with 0.

  Args:
    keep: Object that lives until then, and with it the iterators that it holds.
  """
  _start_deadline(os.getpid())
  code: int | None = None
  python_exit: Callable[[Any], NoReturn] = sys.exit

  def exit_and_remember(status: Any = None) -> NoReturn:
    nonlocal code
    code = status if isinstance(status, int) else int(status is not None)
    # What is registered last runs first: the others are run by `end_process`.
    atexit.unregister(at_exit)
    atexit.register(at_exit, keep)
    python_exit(status)

  owner = os.getpid()

  def at_exit(_kept: Any) -> None:  # alive in this frame, which never returns
    atexit.unregister(at_exit)
    if os.getpid() == owner and not _ending.is_set():  # not in a forked child
      uncaught = getattr(sys, "last_value", None)
      if uncaught is not None:
        interrupted = isinstance(uncaught, KeyboardInterrupt)
        end_process(_EXIT_INTERRUPTED if interrupted else 1)
      if code is not None or _finished.is_set():
        end_process(code or 0)

  sys.exit = exit_and_remember
  atexit.register(at_exit, keep)
