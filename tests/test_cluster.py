"""Which process of how many the environment speaks of."""

import json

import pytest

from mnv2_hpu import cluster
from mnv2_hpu.errors import UserError

TWO_WORKERS = json.dumps({"cluster": {"worker": ["a:1", "b:1"]}, "task": {}})


def _variables(names, place):
  return {name: str(value) for name, value in zip(names.split(), place, strict=True)}


def open_mpi(*place):
  prefix = "OMPI_COMM_WORLD_"
  names = f"{prefix}RANK {prefix}SIZE {prefix}LOCAL_RANK {prefix}LOCAL_SIZE"
  return _variables(names, place)


def horovodrun(*place):
  names = "HOROVOD_RANK HOROVOD_SIZE HOROVOD_LOCAL_RANK HOROVOD_LOCAL_SIZE"
  return _variables(names, place)


def mpich(*place):
  return _variables("PMI_RANK PMI_SIZE MPI_LOCALRANKID MPI_LOCALNRANKS", place)


def srun(rank, size, local_rank, local_size):
  return {
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": str(rank),
    "SLURM_STEP_NUM_TASKS": str(size),
    "SLURM_LOCALID": str(local_rank),
    "SLURM_NODEID": str((rank - local_rank) // local_size),
    "SLURM_STEP_TASKS_PER_NODE": f"{local_size}(x{size // local_size})",
  }


def workers(rank, size, local_rank, local_size):
  del local_rank
  addresses = [f"node-{r // local_size}:{5000 + r}" for r in range(size)]
  task = {"type": "worker", "index": rank}
  config = {"cluster": {"worker": addresses}, "task": task}
  return {"TF_CONFIG": json.dumps(config)}


NAMES = {
  horovodrun: "horovodrun",
  open_mpi: "mpirun (Open MPI)",
  mpich: "mpirun (MPICH, Intel MPI)",
  srun: "srun",
  workers: "TF_CONFIG",
}


@pytest.mark.parametrize("launch", NAMES, ids=lambda launch: launch.__name__)
@pytest.mark.parametrize(
  # rank, size, local rank, local size
  "place",
  [
    (0, 1, 0, 1),
    (0, 2, 0, 2),
    (1, 2, 1, 2),
    (7, 8, 7, 8),
    (7, 16, 7, 8),  # the last device of the first host
    (8, 16, 0, 8),  # the first device of the second host
    (15, 16, 7, 8),
    (63, 64, 7, 8),
  ],
)
def test_every_launcher_is_read_alike(launch, place):
  environ = launch(*place)

  found = (
    cluster.rank(environ),
    cluster.world_size(environ),
    cluster.local_rank(environ),
    cluster.local_size(environ),
  )

  assert found == place
  assert cluster.launcher(environ) == NAMES[launch]


def test_a_process_that_nothing_launched_is_alone():
  assert cluster.world_size({}) == 1
  assert cluster.rank({}) == 0
  assert cluster.local_rank({}) == 0
  assert cluster.local_size({}) == 1
  assert cluster.launcher({}) is None


@pytest.mark.parametrize(
  ("environ", "size"),
  [
    ({"HOROVOD_SIZE": "4"}, 4),
    ({"OMPI_COMM_WORLD_SIZE": "8"}, 8),
    ({"PMI_SIZE": "2"}, 2),
    ({"TF_CONFIG": TWO_WORKERS}, 2),
    ({"TF_CONFIG": "{}"}, 1),
    ({"TF_CONFIG": TWO_WORKERS, "OMPI_COMM_WORLD_SIZE": "2"}, 2),
    # A batch script requests 8 tasks, and is itself one process.
    ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, 1),
  ],
)
def test_world_size(environ, size):
  assert cluster.world_size(environ) == size


def test_mpirun_in_an_allocation_counts_ranks_not_its_daemons():
  daemons = srun(1, 2, 0, 1)  # one on each of two machines
  environ = {**daemons, **open_mpi(9, 16, 1, 8)}

  assert cluster.world_size(environ) == 16
  assert cluster.rank(environ) == 9
  assert cluster.local_rank(environ) == 1
  assert cluster.local_size(environ) == 8


def test_the_chief_is_rank_0_and_the_workers_follow():
  jobs = {"chief": ["a:1"], "worker": ["a:2", "b:1"]}
  tasks = [("chief", 0), ("worker", 0), ("worker", 1)]
  environs = [
    {"TF_CONFIG": json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})}
    for kind, index in tasks
  ]

  assert [cluster.world_size(environ) for environ in environs] == [3, 3, 3]
  assert [cluster.rank(environ) for environ in environs] == [0, 1, 2]
  assert [cluster.local_rank(environ) for environ in environs] == [0, 1, 0]


@pytest.mark.parametrize(
  ("environ", "message"),
  [
    (
      {"TF_CONFIG": TWO_WORKERS, "OMPI_COMM_WORLD_SIZE": "8"},
      r"different numbers.*'OMPI_COMM_WORLD_SIZE': 8, 'TF_CONFIG': 2",
    ),
    (
      {**open_mpi(1, 2, 1, 2), **horovodrun(1, 4, 1, 4)},
      r"different numbers.*'HOROVOD_SIZE': 4, 'OMPI_COMM_WORLD_SIZE': 2",
    ),
    (
      {**open_mpi(1, 2, 1, 2), **workers(0, 2, 0, 2)},
      r"different numbers.*'OMPI_COMM_WORLD_RANK': 1, 'TF_CONFIG': 0",
    ),
    (open_mpi(2, 2, 2, 2), r"rank 2 of 2 processes.*0 to 1"),
    ({"OMPI_COMM_WORLD_SIZE": "two"}, r"OMPI_COMM_WORLD_SIZE='two' is not a whole"),
    ({"HOROVOD_SIZE": "4"}, r"HOROVOD_RANK is not set"),
    (workers(5, 2, 0, 2), r"task worker 5, but its cluster names 2"),
    ({"TF_CONFIG": TWO_WORKERS}, r"no type in its 'task'"),
    (
      {"TF_CONFIG": TWO_WORKERS.replace("{}", '{"type": "worker"}')},
      r"no number as index in its 'task'",
    ),
    (workers("first", 2, 0, 2), r"no number as index in its 'task'"),
    (
      {
        "TF_CONFIG": json.dumps(
          {
            "cluster": {"worker": ["a:1"], "evaluator": ["b:1"]},
            "task": {"type": "evaluator", "index": 0},
          }
        )
      },
      r"task 'evaluator'.*mnv2-evaluate --continuous",
    ),
  ],
)
def test_contradictions_are_named(environ, message):
  with pytest.raises(UserError, match=message):
    cluster.rank(environ)


@pytest.mark.parametrize(
  ("environ", "message"),
  [
    (
      {"TF_CONFIG": '{"task": {"type": "worker", "index": 1}}'},
      "names no 'worker' and no 'chief' in its 'cluster'",
    ),
    ({"TF_CONFIG": '{"cluster": {"worker": []}}'}, "names no 'worker'"),
    ({"TF_CONFIG": '{"cluster": {"ps": ["a:1"]}}'}, "names no 'worker'"),
    ({"TF_CONFIG": '{"clusters": {"worker": ["a:1"]}}'}, "names no 'worker'"),
    ({"OMPI_COMM_WORLD_RANK": "1"}, "_RANK is set; but OMPI_COMM_WORLD_SIZE"),
    (
      {"HOROVOD_RANK": "1", "HOROVOD_LOCAL_RANK": "1"},
      "for HOROVOD_RANK, HOROVOD_LOCAL_RANK is set; but HOROVOD_SIZE",
    ),
    ({"PMI_RANK": "1"}, "PMI_RANK is set; but PMI_SIZE"),
    (
      {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1"},
      "SLURM_PROCID is set; but SLURM_STEP_NUM_TASKS",
    ),
  ],
)
def test_half_set_variables_are_not_taken_for_a_single_process(environ, message):
  with pytest.raises(UserError, match=message):
    cluster.world_size(environ)


def test_an_unknown_device_is_not_guessed():
  environ = {"PMI_SIZE": "4", "PMI_RANK": "3"}

  with pytest.raises(UserError, match="MPI_LOCALRANKID is not set"):
    cluster.local_rank(environ)


@pytest.mark.parametrize("text", ["{", "[1]", "nonsense", '{"cluster": 3}'])
def test_unreadable_tf_config_is_named(text):
  with pytest.raises(UserError, match="TF_CONFIG is not a JSON object"):
    cluster.world_size({"TF_CONFIG": text})
