"""What a sidecar sees of a run, and what it writes; `end_to_end` has whole ones."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
import tensorflow as tf

from mnv2_hpu.core import run_record
from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation import run_watcher, sidecar
from mnv2_hpu.evaluation.run_watcher import RunWatcher, Written
from mnv2_hpu.evaluation.sidecar import EvaluationLog

_HOLD_LOCK = """
import sys
from mnv2_hpu.core import run_record
run_record.acquire_lock(sys.argv[1])
"""


@pytest.fixture
def run(tmp_path):
  """The folder of a run that has recorded itself."""
  (tmp_path / run_record.FILE).write_text("{}")
  return tmp_path


@pytest.fixture
def manager(run):
  """Saves checkpoints named by step; keeps two."""
  checkpoint = tf.train.Checkpoint(value=tf.Variable(0.0))
  return tf.train.CheckpointManager(checkpoint, str(run), max_to_keep=2)


def _watcher(folder, timeout=0.0):
  lines = []
  return RunWatcher(str(folder), timeout, lines.append), lines


def test_a_folder_that_cannot_appear_is_an_error_at_once(tmp_path):
  with pytest.raises(UserError, match=r"missing', which does not exist"):
    _watcher(tmp_path / "missing" / "run", timeout=3600)


def test_it_waits_for_the_run_says_so_and_gives_up(tmp_path):
  watcher, lines = _watcher(tmp_path / "run", timeout=1.5)
  start = time.monotonic()
  with pytest.raises(UserError, match="waited 2 s for a training to begin in "):
    watcher.wait_for_run()
  assert 1.5 <= time.monotonic() - start < 10
  assert lines == [f"waits for a training to begin in {tmp_path / 'run'}"]


def test_a_run_that_begins_later_is_found(tmp_path, manager):
  watcher, _ = _watcher(tmp_path, timeout=60)
  save = threading.Timer(0.5, lambda: manager.save(checkpoint_number=3))
  save.start()
  watcher.wait_for_run()
  save.join()
  _, written = next(watcher.checkpoints({}))
  assert written.step == 3


def test_each_checkpoint_is_given_once_oldest_first_until_the_run_has_finished(
  run, manager
):
  manager.save(checkpoint_number=2)
  manager.save(checkpoint_number=4)
  watcher, _ = _watcher(run, timeout=60)
  steps = []
  for path, written in watcher.checkpoints({}):
    steps.append(written.step)
    assert path == str(run / f"ckpt-{written.step}")
    if written.step == 4:
      manager.save(checkpoint_number=6)
      run_record.write_finished(str(run), 6)
  assert steps == [2, 4, 6]


def test_a_sidecar_that_starts_again_gives_what_is_new(run, manager):
  for step in (2, 4):
    manager.save(checkpoint_number=step)
  run_record.write_finished(str(run), 4)
  given = [written for _, written in _watcher(run)[0].checkpoints({})]
  log = EvaluationLog(str(run))
  log.add(given[0], {"accuracy": 0.5}, 1.0)
  again = EvaluationLog(str(run)).metrics
  assert [w for _, w in _watcher(run)[0].checkpoints(again)] == given[1:]


def test_a_step_of_another_training_in_the_folder_is_given(run, manager):
  manager.save(checkpoint_number=2)
  run_record.write_finished(str(run), 2)
  old = {Written(2, 1.0): {"accuracy": 0.5}}
  assert [w.step for _, w in _watcher(run)[0].checkpoints(old)] == [2]


def test_a_checkpoint_whose_files_are_gone_is_not_given(run, manager):
  for step in (2, 4):
    manager.save(checkpoint_number=step)
  run_record.write_finished(str(run), 4)
  os.remove(run / "ckpt-2.index")
  assert [w.step for _, w in _watcher(run)[0].checkpoints({})] == [4]


@pytest.mark.parametrize("content", ["", "model_checkpoint_path"])
def test_a_list_that_cannot_be_read_is_waited_for(run, content):
  (run / "checkpoint").write_text(content)
  watcher, _ = _watcher(run, timeout=0.1)
  with pytest.raises(UserError, match="for a checkpoint after step 0"):
    next(watcher.checkpoints({}))


def test_no_new_checkpoint_in_time_is_an_error(run, manager):
  manager.save(checkpoint_number=2)
  given = _watcher(run, timeout=0.1)[0].checkpoints({})
  assert next(given)[1].step == 2
  with pytest.raises(UserError, match="for a checkpoint after step 2 in"):
    next(given)


def test_a_training_that_is_gone_is_noticed(run, manager, monkeypatch):
  monkeypatch.setattr(run_watcher, "_SECONDS_TO_START_AGAIN", 1.0)
  manager.save(checkpoint_number=2)
  ended = subprocess.Popen([sys.executable, "-c", _HOLD_LOCK, str(run)])
  assert ended.wait() == 0
  watcher, lines = _watcher(run, timeout=3600)
  given = watcher.checkpoints({})
  assert next(given)[1].step == 2  # what it left is evaluated first
  with pytest.raises(UserError, match=f"finished: process {ended.pid} on .* no longer"):
    next(given)
  assert any("waits 1 s for it to be started again" in line for line in lines)


def test_a_training_of_another_machine_is_not_called_gone(run):
  holder = {"pid": 1, "host": "elsewhere", "started": "2026-01-01"}
  (run / run_record.LOCK_FILE).write_text(json.dumps(holder))
  assert run_record.lost_holder(str(run)) is None
  (run / run_record.LOCK_FILE).write_text("")
  assert run_record.lost_holder(str(run)) is None


def test_a_line_that_a_kill_cut_off_costs_that_line_alone(run):
  log = EvaluationLog(str(run))
  log.add(Written(2, 1.0), {"accuracy": 0.25}, 1.0)
  path = run / sidecar.LOG_FILE
  path.write_text(path.read_text() + '{"step": 4, "writ')
  EvaluationLog(str(run)).add(Written(6, 2.0), {"accuracy": 0.5}, 1.0)
  assert EvaluationLog(str(run)).metrics == {
    Written(2, 1.0): {"accuracy": 0.25},
    Written(6, 2.0): {"accuracy": 0.5},
  }


def test_steps_without_an_evaluation_are_listed(run):
  log = EvaluationLog(str(run))
  assert log.skipped(2) == []
  for step in (4, 6, 10, 11):
    log.add(Written(step, step), {"accuracy": 0.0}, 1.0)
  assert log.skipped(2) == [2, 8]
