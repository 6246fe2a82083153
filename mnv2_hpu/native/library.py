"""Builds the operations in C++ against TensorFlow's headers, and loads them.

A library fits one source, TensorFlow and kind of processor, and is kept in the user's
cache under all three: a machine without its own uses TensorFlow's operations.
"""

import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import tensorflow as tf

from mnv2_hpu import files
from mnv2_hpu.errors import UserError

SOURCE = Path(__file__).with_name("distort_crop.cc")
_turned_off: list[str] = []  # why, where something has
SWITCH = "MNV2_HPU_NATIVE"  # environment variable: 0 leaves TensorFlow's operations
_FLAGS = (
  "-O3",
  "-march=native",
  "-fno-math-errno",
  "-fno-trapping-math",
  "-ffp-contract=off",  # evaluation's pixels are bit for bit TensorFlow's
  "-shared",
  "-fPIC",
)


class NoCompilerError(UserError):
  """There is no C++ compiler here."""


def path() -> Path:
  """Returns where the library for this machine and this TensorFlow is kept."""
  parts = (SOURCE.read_text(), *_FLAGS, tf.__version__, _processor())
  key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
  cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  name = f"native-tensorflow{tf.__version__}-{platform.machine()}-{key}.so"
  return Path(cache) / "mnv2_hpu" / name


def _processor() -> str:
  """Returns what `-march=native` depends on."""
  try:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return platform.processor()
  return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def build() -> Path:
  """Compiles the library, if it is not there or not whole; returns its path.

  Raises:
    NoCompilerError: If there is no C++ compiler.
    UserError: If it cannot be compiled, where the message ends with the compiler's, or
      not be kept.
  """
  library = path()
  if _is_whole(library):
    return library
  compiler = shlex.split(os.environ.get("CXX", "")) or ["c++"]
  if shutil.which(compiler[0]) is None:
    raise NoCompilerError(
      f"there is no C++ compiler {compiler[0]!r}. On Debian and Ubuntu: apt install "
      "g++; or set CXX. Without it the input has TensorFlow's operations, which are "
      "slower."
    )
  try:
    library.parent.mkdir(parents=True, exist_ok=True)
    tmp_path = f"{library}.{os.getpid()}{files.TMP_SUFFIX}"
    with files.atomic_path(str(library), tmp_path):
      _compile(compiler, tmp_path)
    with files.atomic_write(_digest_path(library)) as file:
      file.write(_digest(library))
  except OSError as error:
    raise UserError(
      f"{library} cannot be written: {error}. Set XDG_CACHE_HOME to a folder that can, "
      "or remove what is in its place."
    ) from error
  return library


def _compile(compiler: list[str], output: str) -> None:
  command = [
    *(*compiler, *_FLAGS, "-w", *tf.sysconfig.get_compile_flags()),
    *(str(SOURCE), "-o", output, *tf.sysconfig.get_link_flags()),
  ]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode or not os.path.exists(output):
    raise UserError(
      f"{SOURCE} cannot be compiled by {shlex.join(compiler)!r}, which ended with "
      f"{done.returncode}:\n{done.stderr[-2000:] or 'it wrote nothing'}"
    )


def _digest_path(library: Path) -> Path:
  return library.with_suffix(".sha256")


def _digest(library: Path) -> str:
  return hashlib.sha256(library.read_bytes()).hexdigest()


def _is_whole(library: Path) -> bool:
  """Whether the file is what was compiled: loading a truncated one ends the process."""
  try:
    return _digest_path(library).read_text() == _digest(library)
  except (OSError, ValueError):
    return False


def load() -> Any | None:
  """Returns the module of the operations; None where they are not built or not wanted.

  Example: `load().mnv2_hpu_distort_crop(…)`, as `distort_crop.cc` documents it.
  """
  library = path()
  is_wanted = os.environ.get(SWITCH) != "0" and not _turned_off
  is_used = is_wanted and _is_whole(library)
  return _load(library) if is_used else None


@functools.cache
def _load(library: Path) -> Any:
  return tf.load_op_library(str(library))


def turn_off(reason: str) -> None:
  """Leaves TensorFlow's operations to this process, for a reason `describe` gives."""
  _turned_off.append(reason)


def describe() -> str:
  """Returns which operations resize and distort images, for people."""
  if load() is not None:
    return "one pass in C++"
  if os.environ.get(SWITCH) == "0":
    return f"TensorFlow's operations ({SWITCH}=0)"
  if _turned_off:
    return f"TensorFlow's operations: {_turned_off[0]}"
  return "TensorFlow's operations; `python -m mnv2_hpu.native.build` makes faster ones"
