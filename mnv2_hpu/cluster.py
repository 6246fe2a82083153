"""Ranks and addresses of the training processes: pure functions over the environment.

The one source of truth before TensorFlow runs. Ranks count all processes of the job,
local ranks those of one machine; both start at 0, and rank 0 is the chief.
"""

import contextlib
import json
import random
import re
import socket
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from mnv2_hpu.errors import UserError


class Launcher(NamedTuple):
  """The variables that a launcher sets in each process it starts."""

  name: str
  size: str
  rank: str
  local_rank: str
  local_size: str


def _with_prefix(name: str, prefix: str) -> Launcher:
  fields = ("SIZE", "RANK", "LOCAL_RANK", "LOCAL_SIZE")
  return Launcher(name, *(prefix + field for field in fields))


LAUNCHERS = (
  _with_prefix("horovodrun", "HOROVOD_"),
  _with_prefix("mpirun (Open MPI)", "OMPI_COMM_WORLD_"),
  Launcher(
    "mpirun (MPICH, Intel MPI)",
    *("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
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

# Below Linux's range for outgoing connections, which starts at 32768.
DEFAULT_PORT = 23456
_PORT_RANGE = range(15_000, 30_000)  # below it too, and below Kubernetes' node ports

_TF_CONFIG_FORM = (
  'Unset it, or give it the form {"cluster": {"worker": ["host:port", …]}, '
  '"task": {"type": "worker", "index": 0}}.'
)


def _integer(environ: Mapping[str, str], variable: str) -> int:
  text = environ[variable]
  if not re.fullmatch(r"\d+", text):
    raise UserError(
      f"{variable}={text!r} is not a whole number of 0 or more. The launcher sets it: "
      "start the job with horovodrun, mpirun or srun, or unset it."
    )
  return int(text)


def _has_started(launcher: Launcher, environ: Mapping[str, str]) -> bool:
  """Returns whether the launcher's number of processes is set.

  Raises:
    UserError: If others of its variables are, without that number.
  """
  others = [name for name in launcher[2:] if environ.get(name)]
  if others and not environ.get(launcher.size):
    raise UserError(
      f"{launcher.name} seems to have started this process, for {', '.join(others)} "
      f"is set; but {launcher.size}, the number of processes, is not. Pass on all of "
      "its variables, or unset these."
    )
  return bool(environ.get(launcher.size))


def _launchers(environ: Mapping[str, str]) -> list[Launcher]:
  """Returns the launchers that started this process.

  Batch scripts and allocations of SLURM hold SLURM_NTASKS and SLURM_PROCID=0 though one
  process runs there; SLURM_STEP_ID is set in the steps that srun starts. mpirun starts
  its daemons by such a step, which then counts machines, not ranks.
  """
  found = [launcher for launcher in LAUNCHERS if _has_started(launcher, environ)]
  if environ.get("SLURM_STEP_ID") and _has_started(SRUN, environ):
    size = _integer(environ, SRUN.size)
    if all(_integer(environ, launcher.size) == size for launcher in found):
      found.append(SRUN)
  return found


def _claims(environ: Mapping[str, str], field: str) -> dict[str, int]:
  """Returns variable -> value of one field of all launchers that set it."""
  variables = (getattr(launcher, field) for launcher in _launchers(environ))
  return {v: _integer(environ, v) for v in variables if environ.get(v)}


def _agreed(claims: Mapping[str, int], default: int) -> int:
  """Returns the value that all claims name, `default` where there is none."""
  if len(set(claims.values())) > 1:
    raise UserError(
      f"the environment names different numbers of processes or ranks: {dict(claims)}. "
      "Start the job with one launcher, and unset the variables of the other."
    )
  return next(iter(claims.values()), default)


def _parse_tf_config(environ: Mapping[str, str]) -> dict[str, Any]:
  """Returns TF_CONFIG's cluster and task, empty where it is not set."""
  text = environ.get(TF_CONFIG) or "{}"
  try:
    parsed = json.loads(text)
    jobs = {job: list(hosts) for job, hosts in parsed.get("cluster", {}).items()}
    task = dict(parsed.get("task", {}))
  except (ValueError, TypeError, AttributeError) as error:
    raise UserError(
      f"TF_CONFIG is not a JSON object ({error}): {text!r}. {_TF_CONFIG_FORM}"
    ) from error
  if parsed and not jobs.get("chief") and not jobs.get("worker"):
    raise UserError(
      "TF_CONFIG names no 'worker' and no 'chief' in its 'cluster', so the processes "
      f"of this training are unknown: {text!r}. {_TF_CONFIG_FORM}"
    )
  return {"cluster": jobs, **task}


def tf_config_workers(environ: Mapping[str, str]) -> list[str]:
  """Returns the addresses `host:port` in TF_CONFIG by rank: the chief goes first.

  Raises:
    UserError: If TF_CONFIG is not a JSON object, or names no processes.
  """
  jobs = _parse_tf_config(environ)["cluster"]
  return [address for job in ("chief", "worker") for address in jobs.get(job, ())]


def _tf_config_hosts(environ: Mapping[str, str]) -> list[str]:
  return [address.rpartition(":")[0] for address in tf_config_workers(environ)]


def _tf_config_rank(environ: Mapping[str, str]) -> int:
  config = _parse_tf_config(environ)
  jobs, kind, index = config["cluster"], config.get("type"), config.get("index")
  if kind is None or index is None or not str(index).isdecimal():
    raise UserError(
      f"TF_CONFIG has no {'type' if kind is None else 'number as index'} in its "
      f"'task': which of its processes this is, is unknown. {_TF_CONFIG_FORM}"
    )
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
    environ: Environment variables, usually `os.environ`.

  Raises:
    UserError: If two launchers contradict each other, or a value cannot be read.

  >>> world_size({})
  1
  >>> world_size({"OMPI_COMM_WORLD_SIZE": "8"})
  8
  >>> world_size({"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}}'})
  2
  """
  sizes = _claims(environ, "size")
  if workers := tf_config_workers(environ):
    sizes[TF_CONFIG] = len(workers)
  return _agreed(sizes, default=1)


def rank(environ: Mapping[str, str]) -> int:
  """Returns which of the training processes this is, 0 where it is the only one.

  Raises:
    UserError: If it is not known, not below `world_size`, or contradictory.

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
  found = _agreed(ranks, default=0)
  if found >= size:
    raise UserError(
      f"the environment gives this process rank {found} of {size} processes, whose "
      f"ranks are 0 to {size - 1}: {ranks}. Start all processes with one launcher."
    )
  return found


def local_rank(environ: Mapping[str, str]) -> int:
  """Returns which of this machine's processes this is: the device that it is to use.

  Raises:
    UserError: If there are several processes and it is not known.

  >>> local_rank({"OMPI_COMM_WORLD_SIZE": "16", "OMPI_COMM_WORLD_RANK": "9",
  ...             "OMPI_COMM_WORLD_LOCAL_RANK": "1"})
  1
  """
  this, size = rank(environ), world_size(environ)
  local_ranks = _claims(environ, "local_rank")
  hosts = _tf_config_hosts(environ)
  if hosts and not local_ranks:
    return hosts[:this].count(hosts[this])
  if not local_ranks and size > 1:
    unset = _launchers(environ)[0].local_rank
    raise UserError(
      f"{size} processes were started, but {unset} is not set: which device this one "
      "is to use, is unknown. Start all of them with horovodrun, mpirun or srun."
    )
  return _agreed(local_ranks, default=0)


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
  sizes = _claims(environ, "local_size")
  if sizes or launchers:
    return next(iter(sizes.values()), None)
  hosts = _tf_config_hosts(environ)
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


# ---- Addresses ----


def free_ports(count: int) -> list[int]:
  """Returns consecutive ports on which nobody on this machine listens.

  Their processes may take their time to listen: the system gives no such port to an
  outgoing connection, as it does with those of its own choice.

  Raises:
    OSError: If none are found.
  """
  # Not the generator that a training seeds: two of them would choose the same.
  for first in random.SystemRandom().sample(_PORT_RANGE, 1000):
    ports = list(range(first, first + count))
    with contextlib.ExitStack() as stack:
      try:
        for port in ports:
          stack.enter_context(socket.create_server(("", port)))
      except OSError:
        continue
      return ports
  raise OSError(f"no {count} consecutive free ports were found")


def _parse_hosts(hosts: str) -> list[str]:
  """Returns the host of each rank: `"a:2,b"` is a, a, b."""
  found: list[str] = []
  for entry in filter(None, (entry.strip() for entry in hosts.split(","))):
    match = re.fullmatch(r"([^:\s]+)(?::(\d+))?", entry)
    if match is None:
      raise UserError(
        f"mnv2_hpu.cluster.hosts: {entry!r} is not a host name with the number of its "
        "processes, as in 'node-a:8,node-b:8'."
      )
    found += [match[1]] * int(match[2] or 1)
  return found


def _hosts_by_rank(environ: Mapping[str, str], hosts: str) -> list[str]:
  size, here = world_size(environ), local_size(environ)
  found = _parse_hosts(hosts)
  if not found and here != size:
    raise UserError(
      f"{size} processes were started, {here or 'an unknown number'} of them on this "
      "machine; the names of the others are not known. Name all machines in the order "
      "of the ranks, with the processes of each: "
      "--gin_params='mnv2_hpu.cluster.hosts = \"node-a:8,node-b:8\"'."
    )
  if found and len(found) != size:
    raise UserError(
      f"mnv2_hpu.cluster.hosts names {len(found)} processes ({dict(Counter(found))}), "
      f"but {launcher(environ) or 'no launcher'} started {size}."
    )
  return found or ["localhost"] * size


def tf_config(
  environ: Mapping[str, str], hosts: str = "", port: int = DEFAULT_PORT
) -> str:
  """Returns the value of TF_CONFIG for this process, as JSON.

  A TF_CONFIG that is set already is returned as it stands, once it agrees with the
  launcher. Otherwise every rank is a worker and listens on `port` plus its rank.

  Args:
    environ: Environment variables, usually `os.environ`.
    hosts: Machines in the order of the ranks, with the processes of each, in the form
      of mpirun's `-H`: `"node-a:8,node-b:8"`. Empty: this machine alone.
    port: Port of rank 0.

  Raises:
    UserError: If the machines are not known or do not agree with the launcher, or the
      ports do not exist.

  >>> print(tf_config({"HOROVOD_SIZE": "2", "HOROVOD_RANK": "1",
  ...                  "HOROVOD_LOCAL_SIZE": "2"}, port=5000))
  {"cluster": {"worker": ["localhost:5000", "localhost:5001"]},
   "task": {"type": "worker", "index": 1}}
  """
  this = rank(environ)
  if tf_config_workers(environ):
    return environ[TF_CONFIG]
  by_rank = _hosts_by_rank(environ, hosts)
  place = by_rank[:this].count(by_rank[this])
  if len(set(by_rank)) > 1 and place != local_rank(environ):
    raise UserError(
      f"mnv2_hpu.cluster.hosts makes rank {this} process {place} of {by_rank[this]!r}, "
      f"but its launcher made it process {local_rank(environ)} of its machine. "
      "Name the machines in the launcher's order, and let it fill one after the other "
      "(mpirun --map-by slot)."
    )
  last = port + len(by_rank) - 1
  if not 0 < port <= last <= 65535:
    raise UserError(
      f"mnv2_hpu.cluster.port is {port}: {len(by_rank)} processes would listen on "
      f"ports {port} to {last}; allowed are 1 to 65535."
    )
  workers = [f"{host}:{port + index}" for index, host in enumerate(by_rank)]
  return json.dumps(
    {"cluster": {"worker": workers}, "task": {"type": "worker", "index": this}}
  )
