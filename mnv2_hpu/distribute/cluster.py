"""Which process of how many this is: pure functions over the environment.

The one source of truth before TensorFlow runs. Ranks count all processes of the job,
local ranks those of one machine; both start at 0, and rank 0 is the chief.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from mnv2_hpu.errors import UserError


@dataclasses.dataclass(frozen=True)
class Launcher:
  """The variables that a launcher sets in each process it starts."""

  name: str
  size: str
  rank: str
  local_rank: str
  local_size: str


LAUNCHERS = (
  Launcher(
    "horovodrun",
    "HOROVOD_SIZE",
    "HOROVOD_RANK",
    "HOROVOD_LOCAL_RANK",
    "HOROVOD_LOCAL_SIZE",
  ),
  Launcher(
    "mpirun (Open MPI)",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
  ),
  Launcher(
    "mpirun (MPICH, Intel MPI)",
    "PMI_SIZE",
    "PMI_RANK",
    "MPI_LOCALRANKID",
    "MPI_LOCALNRANKS",
  ),
)
SRUN = Launcher(
  "srun",
  "SLURM_STEP_NUM_TASKS",
  "SLURM_PROCID",
  "SLURM_LOCALID",
  "SLURM_STEP_TASKS_PER_NODE",
)
TF_CONFIG = "TF_CONFIG"


def _integer(environ: Mapping[str, str], variable: str) -> int:
  text = environ[variable]
  if not re.fullmatch(r"\d+", text):
    raise UserError(
      f"{variable}={text!r} is not a whole number of 0 or more. The launcher sets it: "
      "start the job with horovodrun, mpirun or srun, or unset it."
    )
  return int(text)


def _launchers(environ: Mapping[str, str]) -> list[Launcher]:
  """Returns the launchers that started this process.

  Batch scripts and allocations of SLURM hold SLURM_NTASKS and SLURM_PROCID=0 though one
  process runs there; SLURM_STEP_ID is set in the steps that srun starts. mpirun starts
  its daemons by such a step, which then counts machines, not ranks.
  """
  found = [launcher for launcher in LAUNCHERS if environ.get(launcher.size)]
  if environ.get("SLURM_STEP_ID") and environ.get(SRUN.size):
    size = _integer(environ, SRUN.size)
    if all(_integer(environ, launcher.size) == size for launcher in found):
      found.append(SRUN)
  return found


def _claims(environ: Mapping[str, str], field: str) -> dict[str, int]:
  """Returns variable -> value of one field of all launchers that set it."""
  variables = (getattr(launcher, field) for launcher in _launchers(environ))
  return {v: _integer(environ, v) for v in variables if environ.get(v)}


def _agreed(claims: Mapping[str, int], alone: int) -> int:
  """Returns the value that all claims name, `alone` where there is none."""
  if len(set(claims.values())) > 1:
    raise UserError(
      f"the environment names different numbers of processes or ranks: {dict(claims)}. "
      "Start the job with one launcher, and unset the variables of the other."
    )
  return next(iter(claims.values()), alone)


def _tf_config(environ: Mapping[str, str]) -> dict[str, Any]:
  """Returns TF_CONFIG's cluster and task, empty where it is not set."""
  text = environ.get(TF_CONFIG) or "{}"
  try:
    parsed = json.loads(text)
    return {"cluster": dict(parsed.get("cluster", {})), **dict(parsed.get("task", {}))}
  except (ValueError, TypeError, AttributeError) as error:
    raise UserError(
      f"TF_CONFIG is not a JSON object ({error}): {text!r}. Unset it, or see "
      "tf.distribute.cluster_resolver.TFConfigClusterResolver for its form."
    ) from error


def tf_config_workers(environ: Mapping[str, str]) -> list[str]:
  """Returns the addresses `host:port` in TF_CONFIG by rank: the chief goes first.

  Raises:
    UserError: if TF_CONFIG is not a JSON object.
  """
  jobs = _tf_config(environ)["cluster"]
  return [address for job in ("chief", "worker") for address in jobs.get(job, ())]


def _tf_config_rank(environ: Mapping[str, str]) -> int:
  config = _tf_config(environ)
  jobs, kind, index = config["cluster"], config.get("type"), config.get("index", 0)
  if kind not in ("chief", "worker"):
    raise UserError(
      f"TF_CONFIG gives this process the task {kind!r}; a training is made of 'chief' "
      "and 'worker'. To evaluate beside it: mnv2-evaluate --continuous, without "
      "TF_CONFIG."
    )
  if int(index) >= len(jobs.get(kind, ())):
    raise UserError(
      f"TF_CONFIG gives this process the task {kind} {index}, but its cluster names "
      f"{len(jobs.get(kind, ()))} of that type: {jobs}."
    )
  return int(index) + (len(jobs.get("chief", ())) if kind == "worker" else 0)


def world_size(environ: Mapping[str, str]) -> int:
  """Returns the number of training processes, 1 where nothing launched this one.

  Args:
    environ: environment variables, usually `os.environ`.

  Raises:
    UserError: if two launchers contradict each other, or a value cannot be read.

  >>> world_size({})
  1
  >>> world_size({"OMPI_COMM_WORLD_SIZE": "8"})
  8
  >>> world_size({"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}}'})
  2
  """
  sizes = _claims(environ, "size")
  workers = tf_config_workers(environ)
  if workers:
    sizes[TF_CONFIG] = len(workers)
  return _agreed(sizes, alone=1)


def rank(environ: Mapping[str, str]) -> int:
  """Returns which of the training processes this is, 0 where it is the only one.

  Raises:
    UserError: if it is not known, not below `world_size`, or contradictory.

  >>> rank({"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "3"})
  3
  """
  size = world_size(environ)
  ranks = _claims(environ, "rank")
  if tf_config_workers(environ):
    ranks[TF_CONFIG] = _tf_config_rank(environ)
  if not ranks and size > 1:
    unset = _launchers(environ)[0].rank
    raise UserError(
      f"{size} processes were started, but {unset} is not set: which of them this is, "
      "is unknown. Start all of them with one launcher."
    )
  found = _agreed(ranks, alone=0)
  if found >= size:
    raise UserError(
      f"the environment gives this process rank {found} of {size} processes, whose "
      f"ranks are 0 to {size - 1}: {ranks}. Start all processes with one launcher."
    )
  return found


def local_rank(environ: Mapping[str, str]) -> int:
  """Returns which of this machine's processes this is: the card that it is to use.

  Raises:
    UserError: if there are several processes and it is not known.

  >>> local_rank({"OMPI_COMM_WORLD_SIZE": "16", "OMPI_COMM_WORLD_RANK": "9",
  ...             "OMPI_COMM_WORLD_LOCAL_RANK": "1"})
  1
  """
  this, size = rank(environ), world_size(environ)
  local_ranks = _claims(environ, "local_rank")
  hosts = [address.rpartition(":")[0] for address in tf_config_workers(environ)]
  if hosts and not local_ranks:
    return hosts[:this].count(hosts[this])
  if not local_ranks and size > 1:
    unset = _launchers(environ)[0].local_rank
    raise UserError(
      f"{size} processes were started, but {unset} is not set: which card this one is "
      "to use, is unknown. Start all of them with horovodrun, mpirun or srun."
    )
  return _agreed(local_ranks, alone=0)


def local_size(environ: Mapping[str, str]) -> int | None:
  """Returns the number of processes on this machine, None where that is not known.

  >>> local_size({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "20",
  ...             "SLURM_STEP_TASKS_PER_NODE": "8(x2),4", "SLURM_NODEID": "2"})
  4
  """
  launchers = _launchers(environ)
  if SRUN in launchers and environ.get(SRUN.local_size):
    counts: list[int] = []
    for tasks, nodes in re.findall(r"(\d+)(?:\(x(\d+)\))?", environ[SRUN.local_size]):
      counts += [int(tasks)] * int(nodes or 1)
    return dict(enumerate(counts)).get(int(environ.get("SLURM_NODEID", "0")))
  sizes = [environ[one.local_size] for one in launchers if environ.get(one.local_size)]
  if sizes or launchers:
    return int(sizes[0]) if sizes else None
  hosts = [address.rpartition(":")[0] for address in tf_config_workers(environ)]
  return hosts.count(hosts[rank(environ)]) if hosts else 1


def launcher(environ: Mapping[str, str]) -> str | None:
  """Returns what made this process one of several, None where nothing did.

  >>> launcher({"HOROVOD_SIZE": "2", "HOROVOD_RANK": "0"})
  'horovodrun'
  """
  names = [found.name for found in _launchers(environ)]
  if not names and tf_config_workers(environ):
    return TF_CONFIG
  return next(iter(names), None)
