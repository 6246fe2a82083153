"""One training at a time in a model folder.

The lock belongs to an open file (flock), so the kernel drops it when its holder ends,
however it ends, by kill -9 or with the machine; the file itself stays, meaning nothing.
Evaluation takes no lock: it may watch a folder in which a training runs.
"""

import datetime
import fcntl
import json
import os
import socket

from absl import logging

from mnv2_hpu.errors import UserError

FILE = "run.lock"

# Path of the file -> its descriptor. Closing the descriptor would drop the lock.
_held: dict[str, int] = {}


def acquire(model_dir: str) -> None:
  """Takes the lock of a model folder, until `release` or the end of the process.

  Taking it again in the same process changes nothing. Folders in object stores
  (`gs://…`) and file systems without locks are left unlocked, which is logged.

  Args:
    model_dir: the folder; it is created where it is missing.

  Raises:
    UserError: if another process trains in the folder.
  """
  if "://" in model_dir:
    logging.warning("%s is not locked: start no second training in it.", model_dir)
    return
  path = os.path.join(os.path.realpath(model_dir), FILE)
  if path in _held:
    return
  os.makedirs(model_dir, exist_ok=True)
  descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    holder = _holder(descriptor)
    os.close(descriptor)
    raise UserError(
      f"{model_dir!r} is in use: {holder} trains in it. Wait for its end, end it, or "
      "use another --model_dir. Evaluation (--mode=eval or continuous_eval) may run "
      "beside it."
    ) from error
  except OSError as error:
    os.close(descriptor)
    logging.warning(
      "%s cannot be locked (%s): start no second training in it.", model_dir, error
    )
    return
  _held[path] = descriptor
  _write_holder(descriptor)


def release(model_dir: str) -> None:
  """Drops the lock that this process holds on a model folder, if it holds one."""
  path = os.path.join(os.path.realpath(model_dir), FILE)
  if path in _held:
    os.close(_held.pop(path))


def _write_holder(descriptor: int) -> None:
  holder = {
    "pid": os.getpid(),
    "host": socket.gethostname(),
    "started": datetime.datetime.now(datetime.timezone.utc).isoformat(" ", "seconds"),
  }
  os.ftruncate(descriptor, 0)
  os.pwrite(descriptor, json.dumps(holder).encode() + b"\n", 0)


def _holder(descriptor: int) -> str:
  """Says who holds the lock; for a moment after it was taken, the file is empty."""
  try:
    holder = json.loads(os.pread(descriptor, 4096, 0))
  except ValueError:
    return "another process"
  return "process {pid} on {host}, started {started},".format(**holder)
