"""TF_CONFIG as MPI's ranks must see it, against values written by hand."""

import json
import socket

import pytest

from mnv2_hpu import cluster
from mnv2_hpu.errors import UserError


def open_mpi(rank, size, local_size=None):
  local_size = local_size or size
  return {
    "OMPI_COMM_WORLD_RANK": str(rank),
    "OMPI_COMM_WORLD_SIZE": str(size),
    "OMPI_COMM_WORLD_LOCAL_RANK": str(rank % local_size),
    "OMPI_COMM_WORLD_LOCAL_SIZE": str(local_size),
  }


TWO_HOSTS = [
  "node-a:4000", "node-a:4001", "node-a:4002", "node-a:4003",
  "node-a:4004", "node-a:4005", "node-a:4006", "node-a:4007",
  "node-b:4008", "node-b:4009", "node-b:4010", "node-b:4011",
  "node-b:4012", "node-b:4013", "node-b:4014", "node-b:4015",
]  # fmt: skip


@pytest.mark.parametrize(
  ("environ", "hosts", "workers", "index"),
  [
    ({}, "", ["localhost:4000"], 0),
    (open_mpi(0, 1), "", ["localhost:4000"], 0),
    (open_mpi(1, 2), "", ["localhost:4000", "localhost:4001"], 1),
    (open_mpi(1, 2), "10.0.0.5:2", ["10.0.0.5:4000", "10.0.0.5:4001"], 1),
    (open_mpi(1, 2, 1), "node-a, node-b", ["node-a:4000", "node-b:4001"], 1),
    (open_mpi(5, 8), "", [f"localhost:400{n}" for n in range(8)], 5),
    (open_mpi(3, 16, 8), "node-a:8,node-b:8", TWO_HOSTS, 3),
    (open_mpi(12, 16, 8), "node-a:8,node-b:8", TWO_HOSTS, 12),
  ],
)
def test_workers_are_the_ranks(environ, hosts, workers, index):
  config = json.loads(cluster.tf_config(environ, hosts, port=4000))

  assert config == {
    "cluster": {"worker": workers},
    "task": {"type": "worker", "index": index},
  }


def test_64_ranks_on_eight_hosts():
  hosts = ",".join(f"node-{n}:8" for n in range(8))
  texts = [
    cluster.tf_config(open_mpi(rank, 64, 8), hosts, port=4000) for rank in range(64)
  ]

  configs = [json.loads(text) for text in texts]
  assert [config["task"]["index"] for config in configs] == list(range(64))
  assert all(config["cluster"] == configs[0]["cluster"] for config in configs)
  found = configs[0]["cluster"]["worker"]
  assert (found[0], found[7], found[8], found[63]) == (
    "node-0:4000",
    "node-0:4007",
    "node-1:4008",
    "node-7:4063",
  )


def test_a_given_tf_config_stays_as_it_is():
  given = json.dumps(
    {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
  )

  assert cluster.tf_config({"TF_CONFIG": given}, "other:2") == given


@pytest.mark.parametrize(
  ("environ", "hosts", "port", "message"),
  [
    (open_mpi(9, 16, 8), "", 4000, r"16 processes.*8 of them on this machine.*hosts ="),
    ({"PMI_SIZE": "2", "PMI_RANK": "0"}, "", 4000, "an unknown number of them"),
    (open_mpi(1, 2), "node-a:8", 4000, r"names 8 processes.*Open MPI\) started 2"),
    (open_mpi(1, 2), "node-a:x", 4000, r"'node-a:x' is not a host name"),
    (open_mpi(1, 2), ":2", 4000, r"':2' is not a host name"),
    (open_mpi(0, 2), "", 65535, "ports 65535 to 65536"),
    (open_mpi(0, 2), "", 0, "port is 0"),
  ],
)
def test_what_cannot_be_is_refused(environ, hosts, port, message):
  with pytest.raises(UserError, match=message):
    cluster.tf_config(environ, hosts, port)


def test_ranks_dealt_to_the_machines_in_turn_are_refused():
  by_node = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "1",  # on node-b, as its first process
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
  }

  with pytest.raises(UserError, match=r"rank 1 process 1 of 'node-a'.*process 0"):
    cluster.tf_config(by_node, "node-a:2,node-b:2")


def test_free_ports_follow_each_other_and_can_be_listened_on():
  ports = cluster.free_ports(3)
  assert ports == [ports[0], ports[0] + 1, ports[0] + 2]
  assert ports[-1] < 32768  # outgoing connections take others
  for port in ports:
    socket.create_server(("", port)).close()


def test_a_port_in_use_is_not_free(monkeypatch):
  with socket.create_server(("", 0)) as taken:
    port = taken.getsockname()[1]
    monkeypatch.setattr(cluster, "_PORT_RANGE", [port] * 1000)
    with pytest.raises(OSError, match="no 1 consecutive free ports"):
      cluster.free_ports(1)
