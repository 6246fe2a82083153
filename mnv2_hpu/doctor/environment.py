"""This machine and its Python packages, as the checks see them."""

import dataclasses
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from mnv2_hpu import compat
from mnv2_hpu.distribute import hpu_environment
from mnv2_hpu.doctor import folders as folder_trials
from mnv2_hpu.doctor import memory as memory_limits
from mnv2_hpu.doctor import tensorflow_probe

_DISTRIBUTION = "mnv2-hpu"


@dataclasses.dataclass(frozen=True)
class TensorFlowInfo:
  """The installed TensorFlow, once imported."""

  version: str
  cuda_build: bool
  devices: tuple[str, ...]  # device types, such as ("CPU", "GPU", "GPU")
  keras: str  # the distribution that provides the Keras of Model Garden
  has_native_input: bool = False  # whether this project's operations in C++ are built


@dataclasses.dataclass(frozen=True)
class Environment:
  """What the checks read."""

  python: tuple[int, int, int]
  executable: str
  system: str  # such as "Linux x86_64"
  cores: int  # that this process may use
  cpu_flags: frozenset[str]  # as in /proc/cpuinfo
  onednn: str | None  # the environment's TF_ENABLE_ONEDNN_OPTS
  free_gigabytes: float  # in the working directory
  compiler: str | None  # path of a C++ compiler
  distributions: Mapping[str, str]  # normalized name -> installed version
  requirements: Sequence[Requirement]  # in the metadata of this package
  horovod_has_tensorflow: bool
  driver: str | None  # Gaudi's, such as "1.14.0-9e8ecf8"
  tensorflow: TensorFlowInfo | None
  tensorflow_error: str  # why `tensorflow` is None
  memory: Sequence[memory_limits.MemoryLimit] = ()
  folders: Sequence[folder_trials.Folder] = ()  # that the user named

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


def requirements(python: str) -> list[Requirement]:
  """Returns what this package requires on a Python such as "3.12", without extras."""
  try:
    parsed = map(Requirement, metadata.requires(_DISTRIBUTION) or ())
  except metadata.PackageNotFoundError:
    return [Requirement(_DISTRIBUTION)]  # which the checks then find missing
  where = {"python_version": python, "extra": ""}
  return [r for r in parsed if r.marker is None or r.marker.evaluate(where)]


def _horovod_has_tensorflow() -> bool:
  """Returns whether Horovod's extension for TensorFlow was built; imports nothing."""
  spec = importlib.util.find_spec("horovod")
  folders = (spec.submodule_search_locations or []) if spec else []
  return any(list(Path(f, "tensorflow").glob("mpi_lib*.so")) for f in folders)


def collect(
  environ: Mapping[str, str], named_folders: Mapping[str, str] | None = None
) -> Environment:
  """Examines this machine.

  Args:
    environ: Environment variables as the user set them.
    named_folders: Local folders to try, by the flags that named them.
  """
  process = tensorflow_probe.start()  # imports while this process looks at the rest
  found = _collect_rest(environ, named_folders or {})
  tensorflow, error = tensorflow_probe.result(process)
  if tensorflow is None:
    return dataclasses.replace(found, tensorflow_error=error)
  keras = compat.STACKS[compat.stack()].keras
  return dataclasses.replace(
    found,
    tensorflow=TensorFlowInfo(
      tensorflow["version"],
      tensorflow["cuda_build"],
      tuple(tensorflow["devices"]),
      keras,
      tensorflow["has_native_input"],
    ),
  )


def _collect_rest(
  environ: Mapping[str, str], named_folders: Mapping[str, str]
) -> Environment:
  return Environment(
    python=sys.version_info[:3],
    executable=sys.executable,
    system=f"{platform.system()} {platform.machine()}",
    cores=len(os.sched_getaffinity(0)),
    cpu_flags=_cpu_flags(),
    onednn=environ.get("TF_ENABLE_ONEDNN_OPTS"),
    free_gigabytes=shutil.disk_usage(".").free / 1e9,
    compiler=next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None),
    distributions=_distributions(),
    requirements=requirements("{}.{}".format(*sys.version_info)),
    horovod_has_tensorflow=_horovod_has_tensorflow(),
    driver=hpu_environment.driver_version(),
    tensorflow=None,
    tensorflow_error="",
    memory=memory_limits.limits(),
    folders=[folder_trials.examine(flag, path) for flag, path in named_folders.items()],
  )


def probe_hpu() -> tuple[bool, str]:
  """Loads Habana's bridge in a process of its own, for it may abort its process.

  Takes 10 to 20 seconds.

  Returns:
    Whether a Gaudi device can be used, and why not.
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
