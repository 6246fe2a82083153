"""Connects the ranks by Horovod: under horovodrun, under mpirun, or alone."""

import importlib
import os
import pathlib
import socket
import time
from collections.abc import Mapping
from typing import Any

import gin
import tensorflow as tf
from absl import logging

from mnv2_hpu import cluster, files
from mnv2_hpu.distribute import habana, horovod_ops, horovod_strategy, hpu_environment
from mnv2_hpu.errors import UserError

MEGABYTE = 1024 * 1024
DEFAULT_FUSION_THRESHOLD_MB = 64
# mpirun makes this folder for one job, and removes it with the job.
_JOB_FOLDER = "PMIX_SERVER_TMPDIR"
_RENDEZVOUS_FILE = "mnv2_hpu.rendezvous.{job}"
_RENDEZVOUS_TIMEOUT = 300.0  # seconds; ranks import TensorFlow at different speeds

_INSTALL = (
  "Build it with `make setup-horovod` (some minutes, once). On Gaudi, "
  "habana-horovod 1.14.0.493 takes its place."
)


def import_horovod() -> Any:
  """Returns the module `horovod.tensorflow`.

  Raises:
    UserError: If it is not installed, or was built for another TensorFlow.
  """
  try:
    return importlib.import_module("horovod.tensorflow")
  except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "horovod":
      raise
    raise UserError(
      "runtime.distribution_strategy 'horovod' needs Horovod, which is not installed "
      f"in this interpreter. {_INSTALL}"
    ) from error
  # What a library says that was built against another TensorFlow, or without it.
  except (ImportError, OSError, tf.errors.OpError) as error:
    raise UserError(
      f"Horovod does not load with TensorFlow {tf.__version__} "
      f"({type(error).__name__}: {error}). {_INSTALL}"
    ) from error


def settings(
  environ: Mapping[str, str],
  fusion_threshold_mb: float | None,
  cycle_time_ms: float | None,
) -> tuple[int, dict[str, str]]:
  """Returns (bytes in a bucket of tensors, variables that Horovod reads at its start).

  Args:
    environ: Environment variables; options of horovodrun are some of them.
    fusion_threshold_mb: Size of a bucket in MiB; None is the launcher's, or 64.
    cycle_time_ms: Milliseconds between two polls of the ranks for tensors to reduce;
      None is the launcher's, or Horovod's own.

  Raises:
    UserError: If a number has no meaning.

  >>> settings({"HOROVOD_FUSION_THRESHOLD": "1024"}, None, 0.5)
  (1024, {'HOROVOD_FUSION_THRESHOLD': '0', 'HOROVOD_CYCLE_TIME': '0.5'})
  """
  if cycle_time_ms is not None and cycle_time_ms <= 0:
    raise UserError(
      f"mnv2_hpu.horovod.cycle_time_ms is {cycle_time_ms!r}; it must be positive, for "
      "instance 1.0."
    )
  if fusion_threshold_mb is None:
    default = DEFAULT_FUSION_THRESHOLD_MB * MEGABYTE
    # Without fusion, each tensor is sent by itself.
    bucket_bytes = max(1, int(environ.get("HOROVOD_FUSION_THRESHOLD") or default))
  else:
    bucket_bytes = int(fusion_threshold_mb * MEGABYTE)
  # Tensors are bucketed before Horovod sees them: `horovod_ops.Collectives.all_reduce`.
  variables = {"HOROVOD_FUSION_THRESHOLD": "0"}
  if cycle_time_ms is not None:
    variables["HOROVOD_CYCLE_TIME"] = str(cycle_time_ms)
  return bucket_bytes, variables


def init_horovod(hvd: Any, variables: Mapping[str, str]) -> None:
  """Connects the ranks.

  Args:
    hvd: Module that `import_horovod` returned.
    variables: Environment of Horovod, from `settings`.

  Raises:
    UserError: If Horovod connects other ranks than were started.
  """
  if hvd.is_initialized():
    return
  os.environ.update(variables)
  started = cluster.world_size(os.environ)
  if started > 1 and not os.environ.get("HOROVOD_RANK") and not hvd.mpi_built():
    os.environ.update(_gloo_rendezvous(os.environ))
  hvd.init()
  if hvd.size() != started:
    raise UserError(
      f"{cluster.launcher(os.environ) or 'the environment'} started {started} "
      f"process(es), but Horovod connects {hvd.size()}: they would be "
      "several trainings in one folder. Start the job with horovodrun or mpirun, and "
      "unset TF_CONFIG, which Horovod does not read."
    )


def _gloo_rendezvous(environ: Mapping[str, str]) -> dict[str, str]:
  """Lets ranks that mpirun started on one machine find each other without MPI.

  Rank 0 serves the rendezvous that horovodrun would serve, and leaves its port in the
  folder of the job.

  Returns:
    The variables that horovodrun would set.

  Raises:
    UserError: If the ranks are on several machines, or that folder is unknown.
  """
  size, local_size = cluster.world_size(environ), cluster.local_size(environ)
  folder = environ.get(_JOB_FOLDER)
  if local_size != size or not folder:
    raise UserError(
      f"{cluster.launcher(environ)} started {size} processes, but this Horovod was "
      "built without MPI, and without it processes of mpirun meet on one machine, "
      "under Open MPI, only. Either start them with `horovodrun -np "
      f"{size} -H host1:8,host2:8 ...`, or install the headers of MPI (on Debian and "
      "Ubuntu: libopenmpi-dev) and build again: `rm .venv/.horovod`, then `make "
      "setup-horovod`."
    )
  rank = cluster.rank(environ)
  job = environ.get("PMIX_NAMESPACE", "0").replace("/", "_")
  file = pathlib.Path(folder) / _RENDEZVOUS_FILE.format(job=job)
  port = _serve_rendezvous(file, size) if rank == 0 else _rendezvous_port(file)
  return {
    "HOROVOD_RANK": str(rank),
    "HOROVOD_SIZE": str(size),
    "HOROVOD_LOCAL_RANK": str(rank),
    "HOROVOD_LOCAL_SIZE": str(size),
    "HOROVOD_CROSS_RANK": "0",
    "HOROVOD_CROSS_SIZE": "1",
    "HOROVOD_HOSTNAME": socket.gethostname(),
    "HOROVOD_CONTROLLER": "gloo",
    "HOROVOD_CPU_OPERATIONS": "gloo",
    "HOROVOD_GLOO_IFACE": "lo",
    "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
    "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
  }


def _serve_rendezvous(file: pathlib.Path, size: int) -> int:
  """Serves in a thread until this process ends; returns the port."""
  hosts = importlib.import_module("horovod.runner.common.util.hosts")
  http_server = importlib.import_module("horovod.runner.http.http_server")
  server = http_server.RendezvousServer()
  port = server.start()
  host = f"{socket.gethostname()}:{size}"
  server.init(hosts.get_host_assignments(hosts.parse_hosts(host), size))
  with files.atomic_write(file) as written:
    written.write(str(port))
  return port


def _rendezvous_port(file: pathlib.Path) -> int:
  end = time.monotonic() + _RENDEZVOUS_TIMEOUT
  while not file.exists():
    if time.monotonic() > end:
      raise UserError(
        f"rank 0 has not served its rendezvous within {_RENDEZVOUS_TIMEOUT:.0f} s (the "
        f"file {str(file)!r} is not there): see its output for why it did not start."
      )
    time.sleep(0.1)
  return int(file.read_text())


def _device(local_rank: int) -> str:
  """Returns the device of this process: an HPU, else a GPU, else the CPU.

  Args:
    local_rank: Number of this process among those of its machine.

  Raises:
    UserError: If there are fewer GPUs than processes.
  """
  if hpu_environment.is_device_present():
    habana.load()
    tf.config.set_soft_device_placement(True)
    return f"device:{habana.DEVICE_TYPE}:0"  # the bridge takes one device a process
  gpus = tf.config.list_physical_devices("GPU")
  if not gpus:
    return "device:CPU:0"
  if local_rank >= len(gpus):
    raise UserError(
      f"this is process {local_rank} of its machine (counted from 0), which has "
      f"{len(gpus)} GPUs. Start at most {len(gpus)} processes there."
    )
  tf.config.set_visible_devices(gpus[local_rank], "GPU")
  tf.config.experimental.set_memory_growth(gpus[local_rank], True)
  tf.config.set_soft_device_placement(True)
  return "device:GPU:0"


@gin.configurable("horovod", module="mnv2_hpu")
def strategy(
  gradient_compression: str = "none",
  fusion_threshold_mb: float | None = None,
  cycle_time_ms: float | None = None,
) -> horovod_strategy.HorovodStrategy:
  """Connects the ranks, and returns the strategy of this one.

  Call it before any TensorFlow operation has run. The arguments are bound as
  `mnv2_hpu.horovod.gradient_compression` and so on.

  Args:
    gradient_compression: Type in which gradients are sent: `none`, `fp16` or `bf16`;
      they are added up in float32.
    fusion_threshold_mb: Size in MiB of the buckets in which gradients are sent. None is
      horovodrun's option, or 64.
    cycle_time_ms: Milliseconds between two polls for tensors that all ranks have. None
      is horovodrun's option, or 1.

  Raises:
    UserError: If Horovod is missing, connects other ranks than were started, or a value
      has no meaning.
  """
  bucket_bytes, variables = settings(os.environ, fusion_threshold_mb, cycle_time_ms)
  options = horovod_ops.ReduceOptions(gradient_compression, bucket_bytes)
  device = _device(cluster.local_rank(os.environ))
  hvd = import_horovod()  # after Habana's bridge
  init_horovod(hvd, variables)
  logging.info("Horovod: rank %d of %d on %s", hvd.rank(), hvd.size(), device)
  return horovod_strategy.HorovodStrategy(device, hvd, options)
