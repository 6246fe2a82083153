"""Ends a training in which a rank is missing or nothing moves, and says which.

Each rank keeps a TCP connection to rank 0, beside the collectives, and sends a line a
second; rank 0 answers with the last step that all have reached. A rank whose process
ends closes its connection, and is noticed at once; one that is frozen, or whose machine
is gone, falls silent. Rank 0 tells the others whom it misses; they miss rank 0
themselves. A rank that ends with an error says so first: ranks that meet the same one
end with their own, and the others with its message. Threads of Python do all this: they
go on while TensorFlow waits in a collective, which `strategies` lets wait longer than
the watchdog does.
"""

import contextlib
import faulthandler
import json
import math
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf
from absl import logging

from mnv2_hpu import cluster, error_reports
from mnv2_hpu.core import termination
from mnv2_hpu.distribute import ranks

_HEARTBEAT_SECONDS = 1.0
_MAX_HEARTBEAT_SECONDS = 5.0  # after more, this process itself was stopped
_SAME_ERROR_SECONDS = 5.0  # to meet the error that another rank has told of
_DIAGNOSIS_SECONDS = 5.0  # for a heartbeat to notice what a collective has noticed
_MAX_ERROR_LENGTH = 1000  # characters


def _exit(message: str) -> NoReturn:
  """Ends the process at once: its main thread may be stuck in a collective."""
  print(f"error: {message} This rank ends; start all again.", file=sys.stderr)
  sys.stderr.flush()
  os._exit(termination.EXIT_PEER_LOST)


class Watchdog:
  """Watches the other ranks and the progress of this one, from `start` to `stop`.

  Args:
    strategy: Strategy of all ranks.
    settings: How long to wait.
  """

  def __init__(
    self, strategy: tf.distribute.Strategy, settings: termination.FaultSettings
  ) -> None:
    self._strategy = strategy
    self._settings = settings
    self._rank, self._size = ranks.rank(strategy), ranks.size(strategy)
    self._name = f"rank {self._rank} (process {os.getpid()} on {socket.gethostname()})"
    self._lock = threading.Lock()
    self._connections: dict[int, socket.socket] = {}
    self._names = {rank: f"rank {rank}" for rank in range(self._size)}
    self._steps = dict.fromkeys(range(self._size), 0)
    self._common_step = 0
    self._last_heard = dict.fromkeys(range(self._size), math.inf)
    self._last_progress = self._last_heartbeat = time.monotonic()
    self._last_pause = (0.0, 0.0)  # seconds this process stood still; when it went on
    self._warned_seconds = 0.0
    self._is_stopped = False

  def start(self) -> None:
    """Connects the ranks, and starts to watch; all ranks call it together."""
    if self._size > 1:
      self._connect_all()
    self._last_progress = self._last_heartbeat = time.monotonic()
    _start_thread(self._monitor)

  def record_progress(self, step: int) -> None:
    """Records that this rank has finished `step`, or a chunk of an evaluation."""
    self._last_progress = time.monotonic()
    self._steps[self._rank] = step

  def stop(self) -> None:
    """Stops watching, and lets the other ranks know: this one has finished."""
    self._send_final({"final": True})

  @contextlib.contextmanager
  def broadcast_errors(self) -> Iterator[None]:
    """Sends the other ranks the error that ends this one.

    They would wait for it, or say no more than that it is gone.
    """
    try:
      yield
    except Exception as error:
      message = error_reports.explain(error) or f"{type(error).__name__}: {error}"
      self._send_final({"failed": message[:_MAX_ERROR_LENGTH]})
      raise

  def wait_for_diagnosis(self) -> None:
    """After a collective failed: lets the heartbeat say which rank is to blame."""
    if self._connections:
      time.sleep(_DIAGNOSIS_SECONDS)

  # ---- Connections ----

  def _connect_all(self) -> None:
    """Connects all ranks to rank 0, whose address a collective broadcasts."""
    key = secrets.randbits(62)
    port = self.listen(key) if self._rank == 0 else 0
    address = int.from_bytes(socket.inet_aton(_address()), "big")
    row = ranks.gather(self._strategy, np.array([address, port, key]))[0]
    host = socket.inet_ntoa(int(row[0]).to_bytes(4, "big"))
    if cluster.local_size(os.environ) == cluster.world_size(os.environ):
      host = "127.0.0.1"
    elif workers := cluster.tf_config_workers(os.environ):
      host = workers[0].rpartition(":")[0]
    is_unreachable = False
    if self._rank:
      try:
        self.connect(host, int(row[1]), int(row[2]))
      except OSError as error:
        is_unreachable = True
        logging.warning("Rank 0 cannot be reached at %s: %s.", host, error)
    failed = ranks.gather(self._strategy, np.array(is_unreachable, np.uint8))
    if failed.any():
      self._send_all({"final": True})
      self._drop(*self._connections)
      logging.warning(
        "Ranks %s do not reach rank 0 at %s: a missing rank will be noticed only when "
        "nothing has moved for %g seconds.",
        np.flatnonzero(failed).tolist(),
        host,
        self._settings.stall_seconds,
      )

  def listen(self, key: int) -> int:
    """Accepts the other ranks' connections, in a thread; returns the port.

    Args:
      key: Number that a connection must present; known to the ranks alone.
    """
    server = socket.create_server(("", 0))
    _start_thread(self._accept, server, key)
    return int(server.getsockname()[1])

  def connect(self, host: str, port: int, key: int, timeout: float = 10.0) -> None:
    """Connects to rank 0.

    Raises:
      OSError: If it cannot be reached.
    """
    connection = socket.create_connection((host, port), timeout)
    _send(connection, {"key": key, "rank": self._rank})
    self._add(0, connection, connection.makefile())

  def _accept(self, server: socket.socket, key: int) -> None:
    while True:
      connection, _ = server.accept()
      connection.settimeout(_MAX_HEARTBEAT_SECONDS)
      lines = connection.makefile()
      with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        hello = json.loads(lines.readline(100))
        if hello["key"] == key:
          self._add(hello["rank"], connection, lines)
          continue
      lines.close()
      connection.close()  # it is no rank of this training

  def _add(self, rank: int, connection: socket.socket, lines: Iterable[str]) -> None:
    connection.settimeout(None)
    with self._lock:
      self._connections[rank] = connection
    self._last_heard[rank] = time.monotonic()
    _start_thread(self._receive, rank, lines)

  def _drop(self, *peers: int) -> None:
    for rank in peers:
      self._last_heard[rank] = math.inf
      with self._lock:
        self._connections.pop(rank, None)

  def _send_all(self, line: dict[str, Any]) -> None:
    with self._lock:
      for connection in self._connections.values():
        with contextlib.suppress(OSError):  # the thread that receives says so
          _send(connection, line)

  def _send_final(self, line: dict[str, Any]) -> bool:
    """Sends the last line of this rank; returns whether none was sent before."""
    with self._lock:
      is_first, self._is_stopped = not self._is_stopped, True
    if is_first:
      self._send_all(line)
    return is_first

  def _receive(self, rank: int, lines: Iterable[str]) -> None:
    """Reads what another rank sends, until it ends."""
    reason = "its process has ended"
    try:
      for line in map(json.loads, lines):
        self._last_heard[rank] = time.monotonic()
        if "final" in line:
          return self._drop(rank)
        if "missing" in line:
          return self._end(line["missing"])
        if "failed" in line:
          reason = f"it ended with an error: {line['failed']}"
          self._last_heard[rank] = math.inf
          time.sleep(_SAME_ERROR_SECONDS)
          break
        self._names[rank], self._steps[rank] = line["name"], line["step"]
        self._common_step = max(self._common_step, line["common_step"])
    except (ConnectionResetError, ValueError):
      pass  # it was killed before it had read, or sent, a whole line
    except OSError as error:
      reason = f"the connection broke: {error}"
    return self._report_missing(rank, reason)

  # ---- Monitor ----

  def _monitor(self) -> None:
    pause = threading.Event()
    while not pause.wait(_HEARTBEAT_SECONDS) and not self._is_stopped:
      self._discount_pause()
      self._send_heartbeat()
      for rank, heard in self._last_heard.items():
        silence = self._settings.missing_rank_seconds
        if time.monotonic() - heard > silence:
          self._report_missing(rank, f"no heartbeat for {silence:g} seconds")
      self._check_progress()

  def _discount_pause(self) -> None:
    """Forgives others, and itself, the time for which this process was stopped."""
    now = time.monotonic()
    seconds, self._last_heartbeat = now - self._last_heartbeat, now
    if seconds > _MAX_HEARTBEAT_SECONDS:
      self._last_pause = (seconds, now)
      self._last_progress += seconds
      for rank in self._last_heard:
        self._last_heard[rank] += seconds

  def _send_heartbeat(self) -> None:
    if self._rank == 0:
      self._common_step = min(self._steps.values())
    step = self._steps[self._rank]
    line = {"name": self._name, "step": step, "common_step": self._common_step}
    self._send_all(line)

  def _check_progress(self) -> None:
    """Warns where nothing moves, and in the end ends the process."""
    settings, step = self._settings, self._steps[self._rank]
    seconds = time.monotonic() - self._last_progress
    who = f"rank {self._rank}" if self._size > 1 else "the training"
    message = f"{who} has finished nothing for {seconds:.0f} seconds"
    if 0 < settings.stall_seconds < seconds:
      faulthandler.dump_traceback()
      _exit(f"{message}; the last step was {step}.")
    if seconds < settings.stall_warning_seconds:
      self._warned_seconds = 0.0
    elif seconds > self._warned_seconds + settings.stall_warning_seconds:
      self._warned_seconds = seconds
      logging.warning("%s, since step %d.", message.capitalize(), step)

  def _report_missing(self, rank: int, reason: str) -> None:
    self._end(
      f"{self._names[rank]} is missing ({reason}). The last step that all ranks are "
      f"known to have finished is {self._common_step}."  # told once a second
    )

  def _end(self, message: str) -> None:
    """Ends this process, and tells the others of the missing rank."""
    silence = self._settings.missing_rank_seconds
    now = time.monotonic()
    seconds, end = self._last_pause
    paused = max(now - self._last_heartbeat, seconds if now - end < silence else 0)
    if paused > silence - _MAX_HEARTBEAT_SECONDS:  # the others have missed this rank
      message = (
        f"{self._name} was stopped for {paused:.0f} seconds, and the others have gone: "
        f"they wait {silence:g} (mnv2_hpu.FaultSettings.missing_rank_seconds)."
      )
    if self._send_final({"missing": message}):
      _exit(message)


def _start_thread(target: Callable[..., None], *args: Any) -> None:
  threading.Thread(target=target, args=args, daemon=True).start()


def _send(connection: socket.socket, line: dict[str, Any]) -> None:
  connection.sendall(json.dumps(line).encode() + b"\n")


def _address() -> str:
  """Returns the IPv4 address by which other machines probably reach this one."""
  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    try:
      probe.connect(("192.0.2.1", 9))  # no network has it (RFC 5737); nothing is sent
      return str(probe.getsockname()[0])
    except OSError:
      return socket.gethostbyname(socket.gethostname())
