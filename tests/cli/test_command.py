"""How a command ends: processes, since absl ends them."""

import os
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


_PRINTS = """
from mnv2_hpu.cli import command
def main(argv):
  print("a line")
command.run(main, lambda: None, loads_tensorflow=False)
"""


def test_a_reader_that_has_seen_enough_causes_no_traceback():
  reader, writer = os.pipe()
  os.close(reader)
  with os.fdopen(writer, "w") as closed:
    done = subprocess.run(
      [sys.executable, "-c", _PRINTS], stdout=closed, stderr=subprocess.PIPE, text=True
    )
  assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_behind_the_output_is_one_line():
  with open("/dev/full", "w") as full:
    done = subprocess.run(
      [sys.executable, "-c", _PRINTS], stdout=full, stderr=subprocess.PIPE, text=True
    )
  assert done.returncode != 0
  assert "error: the output cannot be written: No space left" in done.stderr
  assert "Traceback" not in done.stderr
