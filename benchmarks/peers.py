"""PyTorch and ONNX Runtime as cases of `turns`: a process of an environment of its own.

`make setup-peers` builds it, `.venv-peers`: its packages do not fit beside
TensorFlow's.
Where it is missing, the other cases are measured.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_PYTHON = _HERE.parent / ".venv-peers" / "bin" / "python"


def num_threads() -> int:
  """Returns the cores that this process may use: threads of TensorFlow and of peers."""
  return len(os.sched_getaffinity(0))


class Peers:
  """A process that stays, and computes when it is told; it waits at other times.

  Attributes:
    versions: What it has, for `turns.publish`; empty where it is missing.
  """

  def __init__(self):
    self.versions = ""
    self._process = None
    if not _PYTHON.exists():
      print(
        "PyTorch and ONNX Runtime are not measured: `make setup-peers` installs them."
      )
      return
    self._process = subprocess.Popen(
      [_PYTHON, "-W", "ignore", _HERE / "peer_process.py", str(num_threads())],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self.versions = self._line()

  def __enter__(self) -> "Peers":
    """Returns itself."""
    return self

  def __exit__(self, *raised: object) -> None:
    """Ends the process."""
    if self._process:
      self._process.communicate()

  def __bool__(self) -> bool:
    """Returns whether there is one."""
    return self._process is not None

  def _line(self):
    line = self._process.stdout.readline().strip()
    if not line:
      raise RuntimeError(f"{_PYTHON} ended with {self._process.wait()}")
    return line

  def seconds(self, name: str, calls: int, *arguments: object) -> Callable[[], float]:
    """Returns what measures a case of `peer_process`: the seconds of a call."""

    def measure():
      self._process.stdin.write(json.dumps([name, calls, arguments]) + "\n")
      self._process.stdin.flush()
      return float(self._line())

    return measure
