import pathlib
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_moving_averages_over_two_replicas():
  """Runs replica_cases.py, whose two logical CPUs need a process of their own."""
  cases = pathlib.Path(__file__).with_name("replica_cases.py")
  done = subprocess.run(
    [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert "10 passed" in done.stdout
