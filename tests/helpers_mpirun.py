"""A small mpirun: processes with the variables that Open MPI sets, on this machine.

Horovod built without MPI lets them meet as `horovod_launch` says; a test needs neither
Open MPI nor horovodrun.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
needs_horovod = pytest.mark.skipif(
  importlib.util.find_spec("horovod") is None,
  reason="Horovod is NOT TESTED: it is not installed. `make setup-horovod` builds it, "
  "and says what is missing",
)


def environment(rank, ranks, folder):
  """What Open MPI sets in one rank; `folder` is that of the job."""
  return {
    "OMPI_COMM_WORLD_SIZE": str(ranks),
    "OMPI_COMM_WORLD_RANK": str(rank),
    "OMPI_COMM_WORLD_LOCAL_SIZE": str(ranks),
    "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
    "PMIX_SERVER_TMPDIR": str(folder),
    "PMIX_NAMESPACE": "1",
  }


def start(arguments_of_ranks, folder, timeout=300):
  """Runs `python arguments…` for each rank; the first that fails ends the others.

  Returns:
    (exit code, standard output and error) of each rank.
  """
  logs = [folder / f"{rank}.log" for rank in range(len(arguments_of_ranks))]
  running = []
  for rank, arguments in enumerate(arguments_of_ranks):
    with open(logs[rank], "w") as log:
      running.append(
        subprocess.Popen(
          [sys.executable, *map(str, arguments)],
          cwd=ROOT,
          env={**os.environ, **environment(rank, len(logs), folder)},
          stdout=log,
          stderr=subprocess.STDOUT,
        )
      )
  end = time.monotonic() + timeout
  while None in (codes := [process.poll() for process in running]):
    if any(codes) or time.monotonic() > end:
      for process in running:
        process.terminate()
      break
    time.sleep(0.2)
  codes = [process.wait() for process in running]
  return [(code, log.read_text()) for code, log in zip(codes, logs, strict=True)]
