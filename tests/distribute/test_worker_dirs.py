"""The temporary directory of non-chief ranks, in processes of their own."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import helpers_mpirun
import pytest

PROGRAM = """
import os, sys, tempfile, time
import gin
from absl import flags, logging
from mnv2_hpu.distribute import worker_dirs
flags.DEFINE_string("model_dir", None, "")
flags.FLAGS(["program", "--model_dir=/the/users"])
logging.set_verbosity(logging.INFO)

@gin.configurable
class Trainer:
  joins_ranks = sys.argv[2] == "joins_ranks"

@gin.configurable
def create_trainer(trainer_cls=None):
  pass

worker_dirs.install()
gin.parse_config_files_and_bindings([], ["create_trainer.trainer_cls = @Trainer"])
print("said to standard output", flush=True)
print("verbosity", logging.get_verbosity(), file=sys.stderr)
print("model_dir", flags.FLAGS.model_dir, file=sys.stderr)
print("temporary", tempfile.mkdtemp(), file=sys.stderr, flush=True)
time.sleep(float(sys.argv[1]))
"""


def _start(rank, folder, seconds=0, trainer="joins_ranks"):
  return subprocess.Popen(
    [sys.executable, "-c", PROGRAM, str(seconds), trainer],
    env={
      **os.environ,
      **helpers_mpirun.environment(rank, 2, folder),
      "TMPDIR": str(folder),
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _said(stderr):
  return dict(line.split(" ", 1) for line in stderr.splitlines() if " " in line)


def test_rank_0_keeps_its_folder_and_its_voice(tmp_path):
  stdout, stderr = _start(0, tmp_path).communicate()
  assert _said(stderr)["model_dir"] == "/the/users"
  assert _said(stderr)["verbosity"] == "0"
  assert stdout == "said to standard output\n"


def test_under_a_trainer_that_restores_on_every_rank_nothing_changes(tmp_path):
  stdout, stderr = _start(1, tmp_path, trainer="does not").communicate()
  assert _said(stderr)["model_dir"] == "/the/users"
  assert stdout == "said to standard output\n"


def _is_empty(folder):
  """Whether a folder is or becomes empty: another process removes what is in it."""
  end = time.monotonic() + 30
  while list(folder.iterdir()):
    if time.monotonic() > end:
      return False
    time.sleep(0.01)
  return True


def test_rank_1_has_a_temporary_directory_that_ends_with_it(tmp_path):
  stdout, stderr = _start(1, tmp_path).communicate()
  said = _said(stderr)
  directory = pathlib.Path(said["model_dir"]).parent
  assert directory.parent == tmp_path
  assert pathlib.Path(said["temporary"]).parent == directory
  assert said["verbosity"] == "-1"
  assert stdout == ""
  assert _is_empty(tmp_path)


def test_a_killed_rank_leaves_nothing_behind(tmp_path):
  killed = {
    number: _start(1, tmp_path, 60) for number in (signal.SIGTERM, signal.SIGKILL)
  }
  for process in killed.values():
    while not process.stderr.readline().startswith("temporary"):
      assert process.poll() is None
  assert len(list(tmp_path.iterdir())) == 2
  for number, process in killed.items():
    process.send_signal(number)
    process.communicate()
  assert _is_empty(tmp_path)


@pytest.fixture(autouse=True)
def _no_other_launcher(monkeypatch):
  for name in ("TF_CONFIG", "HOROVOD_SIZE", "PMI_SIZE", "SLURM_STEP_ID"):
    monkeypatch.delenv(name, raising=False)
