"""Who listens where: free ports, and TF_CONFIG for processes that MPI started."""

import contextlib
import json
import random
import re
import socket
from collections import Counter
from collections.abc import Mapping

from mnv2_hpu.distribute import cluster
from mnv2_hpu.errors import UserError

# Below Linux's range for outgoing connections, which starts at 32768.
DEFAULT_PORT = 23456
_CHOSEN_PORTS = range(15_000, 30_000)  # below it too, and below Kubernetes' node ports


def free_ports(count: int) -> list[int]:
  """Returns ports that follow each other, on which nobody on this machine listens.

  Their processes may take their time to listen: the system gives no such port to an
  outgoing connection, as it does with those of its own choice.

  Raises:
    OSError: if none are found.
  """
  # Not the generator that a training seeds: two of them would choose the same.
  chosen = random.SystemRandom().sample(_CHOSEN_PORTS, 1000)
  for first in chosen:
    ports = list(range(first, first + count))
    with contextlib.ExitStack() as held:
      try:
        for port in ports:
          held.enter_context(socket.create_server(("", port)))
      except OSError:
        continue
      return ports
  raise OSError(f"no {count} free ports that follow each other were found")


def _named(hosts: str) -> list[str]:
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


def _host_of_each_rank(environ: Mapping[str, str], hosts: str) -> list[str]:
  size, here = cluster.world_size(environ), cluster.local_size(environ)
  found = _named(hosts)
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
      f"but {cluster.launcher(environ) or 'no launcher'} started {size}."
    )
  return found or ["localhost"] * size


def tf_config(
  environ: Mapping[str, str], hosts: str = "", port: int = DEFAULT_PORT
) -> str:
  """Returns the value of TF_CONFIG for this process, as JSON.

  A TF_CONFIG that is set already is returned as it stands, once it agrees with the
  launcher. Otherwise every rank is a worker and listens on `port` plus its rank.

  Args:
    environ: environment variables, usually `os.environ`.
    hosts: the machines in the order of the ranks, with the processes of each, as
      mpirun's `-H` takes them: `"node-a:8,node-b:8"`. Empty: this machine alone.
    port: the port of rank 0.

  Raises:
    UserError: if the machines are not known or do not agree with the launcher, or the
      ports do not exist.

  >>> print(tf_config({"HOROVOD_SIZE": "2", "HOROVOD_RANK": "1",
  ...                  "HOROVOD_LOCAL_SIZE": "2"}, port=5000))
  {"cluster": {"worker": ["localhost:5000", "localhost:5001"]},
   "task": {"type": "worker", "index": 1}}
  """
  this = cluster.rank(environ)
  if cluster.tf_config_workers(environ):
    return environ[cluster.TF_CONFIG]
  by_rank = _host_of_each_rank(environ, hosts)
  place = by_rank[:this].count(by_rank[this])
  if len(set(by_rank)) > 1 and place != cluster.local_rank(environ):
    raise UserError(
      f"mnv2_hpu.cluster.hosts makes rank {this} process {place} of {by_rank[this]!r}, "
      f"but its launcher made it process {cluster.local_rank(environ)} of its machine. "
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
