r"""Starts the processes of a training, and starts all of them again when one dies.

Examples:
  mnv2-launch --max_restarts=3 -- mnv2-train --gin_file=gin/imagenet.gin --model_dir=run
  mnv2-launch --max_restarts=3 -- horovodrun -np 8 mnv2-train --model_dir=run …
  mnv2-launch --stop_signal=SIGUSR1 -- mpirun -np 8 mnv2-train --model_dir=run …
  mnv2-launch --np=2 --max_restarts=3 -- mnv2-train --model_dir=run …

With --np the command is started so many times on this machine, each with its TF_CONFIG;
another launcher (horovodrun, mpirun) is started once. A training goes on from its last
checkpoint. SIGTERM is handed on (as --stop_signal), waited for, and not followed by a
restart.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from absl import flags

from mnv2_hpu import cluster
from mnv2_hpu.cli import main as cli_main
from mnv2_hpu.errors import UserError

_PAUSE_SECONDS = 1.0  # before the first restart; doubles up to the greatest
_GREATEST_PAUSE_SECONDS = 60.0
_POLL_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Options:
  """What to start, and how often.

  Attributes:
    command: the program and its arguments.
    processes: how many of it; 0 starts one without TF_CONFIG.
    max_restarts: how often all are started again.
    grace_seconds: between the signal that asks to end and SIGKILL.
    stop_signal: the signal that asks to end.
  """

  command: tuple[str, ...]
  processes: int = 0
  max_restarts: int = 0
  grace_seconds: float = 35.0
  stop_signal: signal.Signals = signal.SIGTERM


def _environments(processes: int) -> list[dict[str, str]]:
  if not processes:
    return [dict(os.environ)]
  workers = [f"127.0.0.1:{port}" for port in cluster.free_ports(processes)]
  return [
    {
      **os.environ,
      "TF_CONFIG": json.dumps(
        {"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}}
      ),
    }
    for rank in range(processes)
  ]


class Launcher:
  """Keeps the processes of one training running."""

  def __init__(self, options: Options) -> None:
    self._options = options
    self._is_asked_to_end = False

  def run(self) -> int:
    """Starts, watches and restarts; returns the exit code of the last attempt.

    It is that of the first process that died; of one that a signal ended, 128 plus the
    signal's number.
    """
    signal.signal(signal.SIGTERM, self._on_signal)
    signal.signal(signal.SIGINT, self._on_signal)
    pause = _PAUSE_SECONDS
    for restarts in range(self._options.max_restarts + 1):
      code = self._attempt()
      if not code or self._is_asked_to_end or restarts == self._options.max_restarts:
        break
      print(
        f"mnv2-launch: ended with code {code}; restart {restarts + 1} of "
        f"{self._options.max_restarts} in {pause:g} seconds.",
        file=sys.stderr,
        flush=True,
      )
      time.sleep(pause)
      pause = min(2 * pause, _GREATEST_PAUSE_SECONDS)
    return code

  def _on_signal(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self._is_asked_to_end = True

  def _attempt(self) -> int:
    """Starts all processes and waits until all have ended, or one has died."""
    processes = [
      # In a group of its own, so that what it starts in turn can be ended with it.
      subprocess.Popen(self._options.command, env=environment, start_new_session=True)
      for environment in _environments(self._options.processes)
    ]
    try:
      return self._watch(processes)
    finally:
      self._end(processes)

  def _watch(self, processes: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
      codes = [process.poll() for process in processes]
      died = next((code for code in codes if code), 0)
      if died:
        return died if died > 0 else 128 - died
      if all(code == 0 for code in codes):
        return 0
      if self._is_asked_to_end:
        self._end(processes)
        died = next((process.wait() for process in processes if process.wait()), 0)
        return died if died >= 0 else 128 - died
      time.sleep(_POLL_SECONDS)

  def _end(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends what still runs: asks, and after the time of grace sends SIGKILL."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
      os.killpg(process.pid, self._options.stop_signal)
    deadline = time.monotonic() + self._options.grace_seconds
    for process in running:
      try:
        process.wait(max(0.0, deadline - time.monotonic()))
      except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def define_flags() -> None:
  """Defines the flags."""
  flags.DEFINE_integer(
    "np", 0, "Processes on this machine, with TF_CONFIG; 0 starts one.", lower_bound=0
  )
  flags.DEFINE_integer(
    "max_restarts", 0, "How often to start all again.", lower_bound=0
  )
  flags.DEFINE_float(
    "grace_seconds", 35.0, "From asking to end to SIGKILL.", lower_bound=0.0
  )
  flags.DEFINE_enum(
    "stop_signal",
    "SIGTERM",
    ["SIGTERM", "SIGUSR1"],
    "What asks the command to end; SIGUSR1 for Open MPI's mpirun, which hands it on, "
    "but kills its processes less than a second after a SIGTERM.",
  )


def main(argv: Sequence[str]) -> int:
  """Starts the command that follows `--`; returns its exit code."""
  command = tuple(argv[1:])
  if not command:
    raise UserError(
      "mnv2-launch was given nothing to start. The command follows --, as in: "
      "mnv2-launch --max_restarts=3 -- mnv2-train --model_dir=run"
    )
  values = flags.FLAGS
  options = Options(
    command,
    values.np,
    values.max_restarts,
    values.grace_seconds,
    signal.Signals[values.stop_signal],
  )
  return Launcher(options).run()


def entry_point() -> None:
  """The console script `mnv2-launch`; imports no TensorFlow."""
  define_flags()
  cli_main.run(main, takes_arguments=True)


if __name__ == "__main__":
  entry_point()
