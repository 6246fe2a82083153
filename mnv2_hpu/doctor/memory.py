"""How much memory a process may take: the machine's, the container's, the shell's."""

import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class MemoryLimit(NamedTuple):
  """One of the limits; the lowest counts."""

  gigabytes: float
  source: str
  advice: str  # the command that shows or raises it


MEMINFO = "/proc/meminfo"
# Of control groups, version 2 and 1, as a container sees its own.
CGROUP_FILES = (
  "/sys/fs/cgroup/memory.max",
  "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)
_RLIMITS = {
  resource.RLIMIT_AS: ("ulimit -v", "ulimit -v unlimited"),
  resource.RLIMIT_DATA: ("ulimit -d", "ulimit -d unlimited"),
}


def limits(
  meminfo: str = MEMINFO, cgroup_files: tuple[str, ...] = CGROUP_FILES
) -> list[MemoryLimit]:
  """Returns all limits of this process, none where the system shows none.

  Args:
    meminfo: File in which the kernel shows the memory that is available.
    cgroup_files: Files that hold the limit of a container in bytes, or `max`.
  """
  return [*_of_the_machine(meminfo), *_of_the_container(cgroup_files), *_of_the_shell()]


def _of_the_machine(meminfo: str) -> Iterator[MemoryLimit]:
  text = Path(meminfo).read_text() if Path(meminfo).exists() else ""
  if match := re.search(r"MemAvailable:\s*(\d+) kB", text):
    yield MemoryLimit(
      int(match[1]) * 1024 / 1e9,
      "available",
      "ps aux --sort=-rss | head  # shows what holds it",
    )


def _of_the_container(files: tuple[str, ...]) -> Iterator[MemoryLimit]:
  for file in filter(Path.exists, map(Path, files)):
    if (text := file.read_text().strip()).isdigit():
      yield MemoryLimit(
        int(text) / 1e9,
        "allowed by the container",
        "docker run --memory=8g …, or resources.limits.memory of the pod",
      )


def _of_the_shell() -> Iterator[MemoryLimit]:
  for limit, (name, advice) in _RLIMITS.items():
    soft, _ = resource.getrlimit(limit)
    if soft != resource.RLIM_INFINITY:
      yield MemoryLimit(soft / 1e9, f"allowed by `{name}`", advice)
