"""Keeps the processes of one training running: starts, restarts, hands signals on."""

import ctypes
import dataclasses
import functools
import glob
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

from mnv2_hpu import cluster, tf_environment
from mnv2_hpu.core import termination
from mnv2_hpu.errors import UserError

_BACKOFF_SECONDS = 1.0  # before the first restart; doubles with each
_MAX_BACKOFF_SECONDS = 60.0
_POLL_SECONDS = 0.1
# NVIDIA's driver; Habana's, and that of Linux 6.
_DEVICES = ("/dev/nvidia[0-9]*", "/dev/hl[0-9]*", "/dev/accel/accel[0-9]*")
_MAX_PROCESSES = 1024
_PR_SET_PDEATHSIG = 1  # an option of Linux' prctl


@dataclasses.dataclass(frozen=True)
class Options:
  """What to start, and how often.

  Attributes:
    command: Program and its arguments.
    processes: Number of processes, each with its TF_CONFIG; 0 starts one without.
    max_restarts: Number of times that all are started again.
    grace_seconds: Seconds between the stop signal and SIGKILL.
    stop_signal: Signal that asks the processes to end.
  """

  command: tuple[str, ...]
  processes: int = 0
  max_restarts: int = 0
  grace_seconds: float = 35.0
  stop_signal: signal.Signals = signal.SIGTERM


def run(options: Options) -> int:
  """Starts, watches and restarts; returns the exit code of the last attempt.

  It is that of the first process that died; of one that a signal ended, 128 plus the
  signal's number. SIGTERM and SIGINT are handed on, and end the wait for a restart.

  Raises:
    UserError: If the command cannot be started.
  """
  if not 0 <= options.grace_seconds < float("inf"):
    raise UserError(
      f"--grace_seconds={options.grace_seconds} is no number of seconds: allowed are 0 "
      "and more."
    )
  stop = _StopRequest()
  backoff = _BACKOFF_SECONDS
  for restarts in range(options.max_restarts + 1):
    code = _attempt(options, stop)
    if not code or stop.is_requested or restarts == options.max_restarts:
      break
    print(
      f"mnv2-launch: ended with code {code}; restart {restarts + 1} of "
      f"{options.max_restarts} in {backoff:g} seconds.",
      file=sys.stderr,
      flush=True,
    )
    stop.wait(backoff)
    if stop.is_requested:
      break
    backoff = min(2 * backoff, _MAX_BACKOFF_SECONDS)
  return code


class _StopRequest:
  """Whether SIGTERM or SIGINT came."""

  def __init__(self) -> None:
    self.is_requested = False
    signal.signal(signal.SIGTERM, self._on_signal)
    signal.signal(signal.SIGINT, self._on_signal)

  def _on_signal(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self.is_requested = True

  def wait(self, seconds: float) -> None:
    """Sleeps, and returns early where a signal comes."""
    deadline = time.monotonic() + seconds
    while not self.is_requested and time.monotonic() < deadline:
      time.sleep(_POLL_SECONDS)


def accelerators() -> int:
  """Returns the GPUs and Gaudis of this machine, by their device files."""
  return max(len(glob.glob(pattern)) for pattern in _DEVICES)


def choose_processes(text: str) -> int:
  """Returns the number of processes that `--np` requests.

  Args:
    text: A number; or `auto`: one for each accelerator. Without any, one without a
      TF_CONFIG: on two cores two processes train 0.88 times as fast
      (docs/benchmarks_in_turns.md).

  Raises:
    UserError: If it is neither.
  """
  if text != "auto":
    if not text.isdecimal() or int(text) > _MAX_PROCESSES:
      raise UserError(
        f"--np={text}: allowed are 0 to {_MAX_PROCESSES}, and auto: one process for "
        "each accelerator."
      )
    return int(text)
  found = accelerators()
  what = (
    f"one for each of {found} accelerators" if found else "one, no accelerator here"
  )
  print(f"mnv2-launch: --np=auto: processes: {what}.", file=sys.stderr, flush=True)
  return found


def _environments(processes: int) -> list[dict[str, str]]:
  # As the user set it: the threads of a process follow from its own cores.
  environ = dict(tf_environment.USER_ENVIRON)
  if not processes:
    return [environ]
  workers = [f"127.0.0.1:{port}" for port in cluster.free_ports(processes)]
  tasks = [{"type": "worker", "index": index} for index in range(processes)]
  return [
    {**environ, "TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": task})}
    for task in tasks
  ]


@functools.cache
def _prctl() -> Callable[..., int] | None:
  return getattr(ctypes.CDLL(None), "prctl", None)  # Linux alone has it


def _prepare(
  cores: set[int], prctl: Callable[..., int] | None, number: int, launcher: int
) -> None:
  """Binds a new process to its cores; it gets a signal where the launcher is killed."""
  os.sched_setaffinity(0, cores)
  if prctl is None:
    return
  prctl(_PR_SET_PDEATHSIG, number)
  if os.getppid() != launcher:  # killed before the call
    os.kill(os.getpid(), number)


def _cores(processes: int) -> list[set[int]]:
  """Returns the cores of each process: disjoint ones, where there are enough.

  Two processes that each run as many threads as there are cores wait for each other.
  """
  mine = sorted(os.sched_getaffinity(0))
  if not 1 < processes <= len(mine) or accelerators():
    return [set(mine)] * max(1, processes)
  share = len(mine) // processes
  return [set(mine[rank * share : (rank + 1) * share]) for rank in range(processes)]


def _start(
  options: Options, environ: dict[str, str], cores: set[int]
) -> subprocess.Popen[bytes]:
  prctl = _prctl()
  try:
    return subprocess.Popen(
      options.command,
      env=environ,
      # A group of its own, so that what it starts in turn can be ended with it.
      start_new_session=True,
      preexec_fn=functools.partial(
        _prepare, cores, prctl, options.stop_signal, os.getpid()
      ),
    )
  except OSError as error:
    raise UserError(
      f"{options.command[0]!r} cannot be started: {error.strerror}. The command to "
      "start follows --."
    ) from error


def _attempt(options: Options, stop: _StopRequest) -> int:
  """Starts all processes and waits until all have ended, or one has died."""
  processes: list[subprocess.Popen[bytes]] = []
  try:
    environments = _environments(options.processes)
    cores = _cores(options.processes)
    for environ, own in zip(environments, cores, strict=True):
      processes.append(_start(options, environ, own))
    while True:
      codes = [process.poll() for process in processes]
      died = _first_failure(codes)
      if died or all(code == 0 for code in codes):
        return _exit_code(died)
      if stop.is_requested:
        _end(processes, options)
        return _exit_code(next((p.returncode for p in processes if p.returncode), 0))
      time.sleep(_POLL_SECONDS)
  finally:
    _end(processes, options)


def _first_failure(codes: Sequence[int | None]) -> int:
  """Returns the code of the process that failed first, 0 where none has.

  Of two that ended between two looks, the one that lost its peer came second.

  >>> _first_failure([None, 0]), _first_failure([75, -9])
  (0, -9)
  """
  failed = [code for code in codes if code]
  own = [code for code in failed if code != termination.EXIT_PEER_LOST]
  return next(iter(own or failed), 0)


def _exit_code(returncode: int) -> int:
  return returncode if returncode >= 0 else 128 - returncode


def _end(processes: Sequence[subprocess.Popen[bytes]], options: Options) -> None:
  """Ends what still runs: by the stop signal, and after the grace time by SIGKILL."""
  running = [process for process in processes if process.poll() is None]
  for process in running:
    os.killpg(process.pid, options.stop_signal)
  deadline = time.monotonic() + options.grace_seconds
  for process in running:
    try:
      process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
