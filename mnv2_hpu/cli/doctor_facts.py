"""What the doctor knows about this machine and its Python packages."""

import dataclasses
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from mnv2_hpu.distribute import hpu_environment


@dataclasses.dataclass(frozen=True)
class TensorFlowFacts:
  """What TensorFlow says of itself, once imported."""

  version: str
  cuda_build: bool
  devices: tuple[str, ...]  # device types, such as ("CPU", "GPU", "GPU")
  keras: str  # the distribution that provides the Keras of Model Garden


@dataclasses.dataclass(frozen=True)
class Facts:
  """Everything that the checks look at."""

  python: tuple[int, int, int]
  executable: str
  system: str  # such as "Linux x86_64"
  cores: int  # that this process may use
  cpu_flags: frozenset[str]  # as in /proc/cpuinfo
  onednn: str | None  # the environment's TF_ENABLE_ONEDNN_OPTS
  free_gigabytes: float  # in the working directory
  compiler: str | None  # path of a C++ compiler
  distributions: Mapping[str, str]  # normalised name -> installed version
  horovod_has_tensorflow: bool
  driver: str | None  # Gaudi's, such as "1.14.0-9e8ecf8"
  tensorflow: TensorFlowFacts | None
  tensorflow_error: str  # why `tensorflow` is None

  def version(self, distribution: str) -> str | None:
    """Returns the installed version of a distribution, None where it is absent."""
    return self.distributions.get(distribution)


def _cpu_flags() -> frozenset[str]:
  """Reads the flags of the first core; empty where the system has no /proc."""
  cpuinfo = Path("/proc/cpuinfo")
  lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
  flags = (line.partition(":")[2].split() for line in lines if line.startswith("flags"))
  return frozenset(next(flags, []))


def _distributions() -> dict[str, str]:
  """Returns the installed distributions; the first on `sys.path` counts."""
  found: dict[str, str] = {}
  for distribution in metadata.distributions():
    name = distribution.metadata["Name"].lower().replace("_", "-")
    found.setdefault(name, distribution.version)
  return found


def _horovod_has_tensorflow() -> bool:
  """Whether Horovod's extension for TensorFlow was built. Imports nothing."""
  spec = importlib.util.find_spec("horovod")
  folders = (spec.submodule_search_locations or []) if spec else []
  return any(list(Path(f, "tensorflow").glob("mpi_lib*.so")) for f in folders)


def _tensorflow() -> TensorFlowFacts:
  import tensorflow as tf

  from mnv2_hpu.compat import keras

  return TensorFlowFacts(
    version=tf.__version__,
    cuda_build=tf.test.is_built_with_cuda(),
    devices=tuple(d.device_type for d in tf.config.list_physical_devices()),
    keras="tf-keras" if "tf_keras" in keras.__name__ else "keras",
  )


def collect(environ: Mapping[str, str]) -> Facts:
  """Looks at this machine.

  Args:
    environ: the environment as the user set it.
  """
  tensorflow, error = None, ""
  try:
    tensorflow = _tensorflow()
  # A broken set of packages fails in many ways; the check shows which.
  except (ImportError, AttributeError, TypeError, OSError) as failure:
    error = f"{type(failure).__name__}: {failure}"
  return Facts(
    python=sys.version_info[:3],
    executable=sys.executable,
    system=f"{platform.system()} {platform.machine()}",
    cores=len(os.sched_getaffinity(0)),
    cpu_flags=_cpu_flags(),
    onednn=environ.get("TF_ENABLE_ONEDNN_OPTS"),
    free_gigabytes=shutil.disk_usage(".").free / 1e9,
    compiler=next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None),
    distributions=_distributions(),
    horovod_has_tensorflow=_horovod_has_tensorflow(),
    driver=hpu_environment.driver_version(),
    tensorflow=tensorflow,
    tensorflow_error=error,
  )


def probe_hpu() -> tuple[bool, str]:
  """Loads Habana's bridge in a process of its own, for it may abort its process.

  Takes 10 to 20 seconds.

  Returns:
    Whether a Gaudi card can be used, and why not.
  """
  done = subprocess.run(
    [sys.executable, "-m", "mnv2_hpu.distribute.habana"], capture_output=True, text=True
  )
  lines = done.stdout.splitlines()
  if done.returncode or not lines:
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return False, f"the bridge ended its process with code {done.returncode}: {last}"
  answer = json.loads(lines[-1])
  return answer["available"], answer["reason"]
