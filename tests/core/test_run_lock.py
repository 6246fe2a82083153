"""Two trainings in one folder, with real processes."""

import json
import os
import subprocess
import sys

import pytest

from mnv2_hpu.core import run_record
from mnv2_hpu.errors import UserError

_HOLD = """
import sys
from mnv2_hpu.core import run_record
run_record.acquire_lock(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
  process = subprocess.Popen(
    [sys.executable, "-c", _HOLD, str(tmp_path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "held\n"
  yield process
  process.kill()
  process.communicate()


def test_second_training_is_refused_and_the_first_named(tmp_path, holder):
  assert run_record.is_training(str(tmp_path))
  with pytest.raises(UserError, match=rf"process {holder.pid} on .*, started 20"):
    run_record.acquire_lock(str(tmp_path))


def test_a_link_to_the_folder_is_the_same_folder(tmp_path, holder, tmp_path_factory):
  link = tmp_path_factory.mktemp("links") / "run"
  link.symlink_to(tmp_path)
  with pytest.raises(UserError, match="is in use"):
    run_record.acquire_lock(str(link))


def test_a_killed_training_leaves_no_lock(tmp_path, holder):
  holder.kill()
  holder.wait()
  assert not run_record.is_training(str(tmp_path))
  run_record.acquire_lock(str(tmp_path))
  run_record.acquire_lock(str(tmp_path))  # by the same process: nothing new
  held_by = json.loads((tmp_path / run_record.LOCK_FILE).read_text())["pid"]
  assert held_by == os.getpid()


def test_the_folder_is_made(tmp_path):
  run_record.acquire_lock(str(tmp_path / "new" / "run"))
  assert (tmp_path / "new" / "run" / run_record.LOCK_FILE).exists()
