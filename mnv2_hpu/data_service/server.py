"""The processes of a data service: a dispatcher, and workers on any number of hosts."""

import contextlib
import dataclasses
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

import tensorflow as tf

from mnv2_hpu import compat
from mnv2_hpu.data_service import address
from mnv2_hpu.errors import UserError, counted
from mnv2_hpu.native import library

_JOB_SECONDS = 30  # that a job is kept which no trainer reads any more
_POLL_SECONDS = 1.0
_LOOPBACK = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class Options:
  """What one process of a service runs.

  Attributes:
    port: Port of the dispatcher; of a worker alone its own. 0 takes a free one.
    dispatcher: Address of the dispatcher that workers join; None starts one here.
    workers: Number of workers in this process.
    work_dir: Folder from which a dispatcher that is started again goes on; empty: none.
    timeout: Seconds that workers wait for their dispatcher.
  """

  port: int
  dispatcher: address.Address | None = None
  workers: int = 0
  work_dir: str = ""
  timeout: float = 60.0


def run(options: Options) -> None:
  """Runs until SIGTERM or SIGINT.

  Raises:
    UserError: If a port is in use, the dispatcher does not answer, or the folder cannot
      serve.
  """
  stop = threading.Event()

  def on_signal(number: int, frame: FrameType | None) -> None:
    del number, frame
    stop.set()

  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, on_signal)
  if options.dispatcher is None:
    _run_dispatcher(options, stop)
  else:
    _run_worker(options.dispatcher, options, stop)


def _run_dispatcher(options: Options, stop: threading.Event) -> None:
  """Runs a dispatcher, and the workers beside it; logs how many are there."""
  service = tf.data.experimental.service
  library.load()  # it looks at the datasets that workers run
  dispatcher = _start(
    options.port,
    lambda: service.DispatchServer(
      service.DispatcherConfig(
        port=options.port,
        work_dir=options.work_dir or None,
        fault_tolerant_mode=bool(options.work_dir),
        job_gc_check_interval_ms=_JOB_SECONDS * 1000,
        job_gc_timeout_ms=_JOB_SECONDS * 1000,
      )
    ),
  )
  port = int(dispatcher.target.rpartition(":")[2])
  own = [
    _start_worker(address.Address(_LOOPBACK, port), _LOOPBACK, 0)
    for _ in range(options.workers)
  ]
  restarts = "" if options.work_dir else ", which without --work_dir ends with it"
  _log(
    f"dispatcher listens at {address.PROTOCOL}://{socket.gethostname()}:{port}"
    f"{restarts}; images are distorted by {library.describe()}"
  )
  num_workers = 0
  while not stop.is_set():
    if (now := compat.num_data_service_workers(dispatcher)) != num_workers:
      _log(f"{counted(now, 'worker')} joined so far")
      num_workers = now
    stop.wait(_POLL_SECONDS)
  _end(own)


def _run_worker(
  dispatcher: address.Address, options: Options, stop: threading.Event
) -> None:
  """Runs a worker that joins a dispatcher once that answers."""
  host = address.own_host_seen_from(dispatcher, options.timeout)
  library.load()
  worker = _start(options.port, lambda: _start_worker(dispatcher, host, options.port))
  _log(
    f"worker at {host} of the dispatcher at {dispatcher.target}; images are distorted "
    f"by {library.describe()}"
  )
  stop.wait()
  _end(worker)


def _start_worker(
  dispatcher: address.Address, host: str, port: int
) -> tf.data.experimental.service.WorkerServer:
  service = tf.data.experimental.service
  return service.WorkerServer(
    service.WorkerConfig(
      dispatcher_address=str(dispatcher),
      worker_address=f"{host}:%port%",
      data_transfer_address=f"{host}:%port%",
      port=port,
    )
  )


def _start(port: int, start: Callable[[], Any]) -> Any:
  """Starts a server.

  Raises:
    UserError: If its port is in use, or its folder cannot serve.
  """
  if port:
    try:
      socket.create_server(("", port)).close()
    except OSError as error:
      raise UserError(
        f"--port={port} cannot be used: {error.strerror}. Give another one, or end "
        "what listens there."
      ) from error
  try:
    return start()
  except (tf.errors.OpError, RuntimeError) as error:
    problem = getattr(error, "message", error)
    raise UserError(f"the data service cannot start: {problem}") from error


def _end(servers: Any) -> NoReturn:
  """Ends the process, which has nothing left to write.

  A server that is stopped or deleted waits for the requests of its trainers, and a
  trainer always has one; it holds Python's lock meanwhile.

  Args:
    servers: What must not be deleted before.
  """
  del servers
  _log("stops")
  os._exit(0)


def _log(text: str) -> None:
  with contextlib.suppress(BrokenPipeError):  # who read it may have gone
    print(f"mnv2-data-service: {text}", flush=True)
