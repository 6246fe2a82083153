"""Programs started as a user starts them, several from one warm process."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile

TESTS = pathlib.Path(__file__).parent
ROOT = TESTS.parent
STOCK_DRIVER = "official.vision.train"


@dataclasses.dataclass(frozen=True)
class Done:
  """A program that ended, with standard output and error in one text."""

  returncode: int
  output: str


class Programs:
  """Starts modules as programs; see `zygote.py`.

  Attributes:
    cpu_seconds: CPU seconds of all programs of this process that have ended.
  """

  cpu_seconds = 0.0

  def __init__(self):
    self._server = subprocess.Popen(
      [sys.executable, str(TESTS / "zygote.py")],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      cwd=ROOT,
    )
    self._await("ready")

  def _await(self, what):
    for line in self._server.stdout:
      if line.startswith(what):
        return line
    raise RuntimeError(f"the server of programs ended with {self._server.wait()}")

  def run(self, module, *args, env=None, timeout=1200):
    """Runs `python -m module args…` from the repository and waits for its end."""
    with tempfile.NamedTemporaryFile() as out:
      request = {
        "module": module,
        "args": [str(arg) for arg in args],
        "cwd": str(ROOT),
        "env": env or {},
        "out": out.name,
        "timeout": timeout,
      }
      self._server.stdin.write(json.dumps(request) + "\n")
      self._server.stdin.flush()
      answer = json.loads(self._await("{"))
      Programs.cpu_seconds += answer["cpu_seconds"]
      return Done(
        answer["returncode"], pathlib.Path(out.name).read_text(errors="replace")
      )

  def close(self):
    """Ends the server."""
    self._server.stdin.close()
    self._server.wait()
