"""The folders that a run reads and writes: tried by writing a file."""

import contextlib
import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable

from mnv2_hpu import paths


@dataclasses.dataclass(frozen=True)
class Folder:
  """What a trial in a folder, or in the nearest one above it that exists, has shown."""

  flag: str  # that named it, such as "--model_dir"
  path: str
  existing: str  # the folder that was tried
  failed: str = ""  # "read" or "written" where the trial ended with `error`
  error: OSError | None = None
  free_gigabytes: float = 0.0
  skew: float = 0.0  # seconds by which the clock of the file system is ahead
  newest: str = ""  # file that was changed last; empty where there is none
  newest_age: float = 0.0  # seconds; negative where it was changed in the future


def examine(flag: str, path: str, clock: Callable[[], float] = time.time) -> Folder:
  """Lists the folder, writes a file into it, and compares the clocks.

  Args:
    flag: Flag that named the folder, for the report.
    path: Local folder, which need not exist.
    clock: Clock of this machine, in seconds since 1970.
  """
  existing = paths.nearest_existing(path)
  found = Folder(flag, path, existing)
  doing = "read"
  try:
    newest, changed = _newest(path) if existing == os.path.abspath(path) else ("", 0.0)
    doing = "written"
    free = shutil.disk_usage(existing).free / 1e9
    with tempfile.NamedTemporaryFile(dir=existing, prefix=".mnv2-doctor-") as file:
      file.write(bytes(4096))
      file.flush()
      os.fsync(file.fileno())  # a file server sets the time when it has the bytes
      now = clock()
      skew = os.stat(file.name).st_mtime - now
  except OSError as error:
    return dataclasses.replace(found, failed=doing, error=error)
  return dataclasses.replace(
    found,
    free_gigabytes=free,
    skew=skew,
    newest=newest,
    newest_age=now - changed if newest else 0.0,
  )


def _newest(folder: str) -> tuple[str, float]:
  """Returns the file of the folder that was changed last, and when."""
  changed = []
  with os.scandir(folder) as entries:
    for entry in entries:
      with contextlib.suppress(FileNotFoundError):  # a run has replaced it meanwhile
        changed.append((entry.stat(follow_symlinks=False).st_mtime, entry.path))
  seconds, path = max(changed, default=(0.0, ""))
  return path, seconds
