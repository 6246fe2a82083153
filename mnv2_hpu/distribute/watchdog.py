"""Ends a training in which a rank is missing or nothing moves, and says which."""

import contextlib
import faulthandler
import os
import secrets
import socket
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from typing import NoReturn

import numpy as np
import tensorflow as tf
from absl import logging

from mnv2_hpu import cluster, error_reports
from mnv2_hpu.core import termination
from mnv2_hpu.distribute import heartbeat, ranks

_MONITOR_SECONDS = 1.0
_DIAGNOSIS_SECONDS = 5.0  # for the heartbeat to notice what a collective has noticed


def _end(message: str) -> NoReturn:
  """Ends the process at once: its main thread may be stuck in a collective."""
  print(f"error: {message} This rank ends; start all again.", file=sys.stderr)
  sys.stderr.flush()
  os._exit(termination.EXIT_PEER_LOST)


class Watchdog:
  """Watches the other ranks and the progress of this one, from `start` to `stop`.

  Args:
    strategy: of all ranks.
    settings: how long to wait.
  """

  def __init__(
    self, strategy: tf.distribute.Strategy, settings: termination.FaultSettings
  ) -> None:
    self._strategy = strategy
    self._settings = settings
    self._rank = ranks.rank(strategy)
    self._size = ranks.size(strategy)
    self._heartbeat: heartbeat.Heartbeat | None = None
    self._moved = time.monotonic()
    self._step = 0
    self._is_stopped = False

  def start(self) -> None:
    """Connects the ranks, and starts to watch; all ranks call it together."""
    self._moved = time.monotonic()
    if self._size > 1:
      self._connect()
    threading.Thread(target=self._monitor, daemon=True).start()

  def record_progress(self, step: int) -> None:
    """Says that this rank has finished `step`, or a part of an evaluation after it."""
    self._moved, self._step = time.monotonic(), step
    if self._heartbeat is not None:
      self._heartbeat.record_step(step)

  def stop(self) -> None:
    """Says that this rank ends as it should."""
    self._is_stopped = True
    if self._heartbeat is not None:
      self._heartbeat.stop()

  @contextlib.contextmanager
  def broadcast_errors(self) -> Iterator[None]:
    """Tells the other ranks of an error that ends this one.

    They would wait for it, or say no more than that it is gone.
    """
    try:
      yield
    except Exception as error:
      self._is_stopped = True
      if self._heartbeat is not None:
        self._heartbeat.fail(
          error_reports.explain(error) or f"{type(error).__name__}: {error}"
        )
      raise

  def wait_for_diagnosis(self) -> None:
    """After a collective failed: lets the heartbeat say which rank is to blame."""
    if self._heartbeat is not None:
      time.sleep(_DIAGNOSIS_SECONDS)

  def _connect(self) -> None:
    """Tells all ranks through a collective where rank 0 listens."""
    own = heartbeat.Heartbeat(
      self._rank, self._size, self._settings.missing_rank_seconds, _end
    )
    key = secrets.randbits(62)
    port = own.listen(key) if self._rank == 0 else 0
    machine = zlib.crc32(socket.gethostname().encode())
    address = int.from_bytes(socket.inet_aton(_address()), "big")
    rows = ranks.gather(self._strategy, np.array([machine, address, port, key]))
    host = socket.inet_ntoa(int(rows[0, 1]).to_bytes(4, "big"))
    if (rows[:, 0] == machine).all():
      host = "127.0.0.1"
    elif workers := cluster.tf_config_workers(os.environ):
      host = workers[0].rpartition(":")[0]
    problem = ""
    if self._rank:
      try:
        own.connect(host, int(rows[0, 2]), int(rows[0, 3]))
      except OSError as error:
        problem = str(error)
        logging.warning("Rank 0 cannot be reached at %s: %s.", host, problem)
    failed = ranks.gather(self._strategy, np.array(bool(problem), np.uint8))
    if failed.any():
      own.stop()
      logging.warning(
        "Ranks %s do not reach rank 0 at %s: a missing rank will be noticed only when "
        "nothing has moved for %g seconds.",
        np.flatnonzero(failed).tolist(),
        host,
        self._settings.stall_seconds,
      )
      return
    self._heartbeat = own

  def _monitor(self) -> None:
    """Warns where nothing moves, and in the end ends the process."""
    pause, warned = threading.Event(), 0.0
    while not pause.wait(_MONITOR_SECONDS) and not self._is_stopped:
      still = time.monotonic() - self._moved
      where = f"rank {self._rank} has finished nothing for {still:.0f} seconds"
      if 0 < self._settings.stall_seconds < still:
        faulthandler.dump_traceback()
        _end(f"{where}; the last step was {self._step}.")
      if still < self._settings.stall_warning_seconds:
        warned = 0.0
      elif still > warned + self._settings.stall_warning_seconds:
        warned = still
        logging.warning("%s, since step %d.", where.capitalize(), self._step)


def _address() -> str:
  """Returns the IPv4 address by which other machines probably reach this one."""
  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    try:
      probe.connect(("192.0.2.1", 9))  # of no network (RFC 5737); nothing is sent
      return str(probe.getsockname()[0])
    except OSError:
      return socket.gethostbyname(socket.gethostname())
