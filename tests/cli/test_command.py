"""How a command ends: processes, since absl ends them."""

import subprocess
import sys

import pytest

_PROGRAM = """
import sys
from mnv2_hpu.cli import command
from mnv2_hpu.errors import UserError

def main(argv):
  {body}

command.run(main, lambda: None, loads_tensorflow=False)
"""


@pytest.mark.parametrize(
  ("body", "flags", "code", "error"),
  [
    ("return 3", [], 3, ""),
    ("raise UserError('what to do')", [], 1, "error: what to do\n"),
    ("raise KeyboardInterrupt", [], 130, "error: interrupted\n"),
    ("return 0", ["more"], 1, "error: arguments not understood: ['more']\n"),
  ],
)
def test_a_mistake_is_one_line(body, flags, code, error):
  done = subprocess.run(
    [sys.executable, "-c", _PROGRAM.format(body=body), *flags],
    capture_output=True,
    text=True,
  )

  assert (done.returncode, done.stderr) == (code, error)


def test_a_defect_keeps_its_traceback():
  done = subprocess.run(
    [sys.executable, "-c", _PROGRAM.format(body="raise ValueError('shapes')")],
    capture_output=True,
    text=True,
  )

  assert done.returncode == 1
  assert "Traceback" in done.stderr
