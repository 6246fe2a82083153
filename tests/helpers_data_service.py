"""Processes of a data service, as a user starts them."""

import contextlib
import os
import subprocess
import sys

import helpers_programs

_COMMAND = [sys.executable, "-m", "mnv2_hpu.cli.data_service"]


class Service:
  """A dispatcher, and workers on the same host, each a process of its own.

  Attributes:
    address: What trainers are given.
    dispatcher: Process of the dispatcher.
    workers: Processes of the workers.
  """

  def __init__(self, port, workers, *args):
    self.address = f"grpc://127.0.0.1:{port}"
    self._port = port
    self._args = args
    self.dispatcher = self.start_dispatcher()
    self.workers = [self.start_worker() for _ in range(workers)]
    for process in (self.dispatcher, *self.workers):
      wait_until_up(process)

  def start_dispatcher(self):
    return start("dispatcher", f"--port={self._port}", *self._args)

  def start_worker(self):
    return start("worker", f"--dispatcher={self.address}")


def start(*args, **environ):
  """Starts the command; `wait_until_up` returns once it serves."""
  return subprocess.Popen(
    [*_COMMAND, *args],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
    cwd=helpers_programs.ROOT,
    env={**os.environ, **environ},
  )


def wait_until_up(process):
  """Returns what a process says first."""
  line = process.stdout.readline()
  assert line.startswith("mnv2-data-service: "), (line, process.poll())
  return line


@contextlib.contextmanager
def running(port, workers, *args):
  """A service that is killed afterwards, whatever is left of it."""
  service = Service(port, workers, *args)
  try:
    yield service
  finally:
    for process in (service.dispatcher, *service.workers):
      process.kill()
      process.wait()
      process.stdout.close()
