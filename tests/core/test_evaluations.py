"""Which evaluations a resumed training has to run."""

from unittest import mock

import pytest
from official.core import config_definitions as cfg

from mnv2_hpu import driver_flags
from mnv2_hpu.core import evaluations

_CONFIG = cfg.TrainerConfig(validation_interval=10, train_steps=25)


@pytest.fixture(autouse=True)
def train_and_eval():
  with mock.patch.object(driver_flags, "driver_mode", return_value="train_and_eval"):
    yield


def _schedule(folder):
  return evaluations.EvaluationSchedule(str(folder), _CONFIG, is_chief=True)


def test_evaluations_are_due_at_the_interval_and_at_the_end(tmp_path):
  schedule = _schedule(tmp_path)
  due = [step for step in range(1, 26) if schedule.is_due(step)]
  assert due == [10, 20, 25]
  assert not schedule.is_pending(0)
  assert not schedule.is_pending(15)


def test_an_evaluation_is_pending_until_its_results_are_written(tmp_path):
  schedule = _schedule(tmp_path)
  schedule.mark(10)
  assert _schedule(tmp_path).is_pending(10)  # killed while the driver writes them
  schedule.commit()
  assert not _schedule(tmp_path).is_pending(10)
  assert _schedule(tmp_path).is_pending(20)


def test_a_run_that_goes_back_evaluates_again(tmp_path):
  schedule = _schedule(tmp_path)
  for step in (10, 20):
    schedule.mark(step)
  schedule.commit()
  schedule = _schedule(tmp_path)
  schedule.resume(10)  # the checkpoint of step 20 was corrupt
  schedule.commit()
  schedule = _schedule(tmp_path)
  assert (schedule.is_pending(10), schedule.is_pending(20)) == (False, True)


@pytest.mark.parametrize("content", ["", "[]", '{"completed_steps": null}'])
def test_a_corrupt_file_is_ignored(tmp_path, content):
  (tmp_path / evaluations.FILE).write_text(content)
  assert _schedule(tmp_path).is_pending(10)


def test_a_full_disk_is_said_and_tried_again(tmp_path, caplog):
  schedule = _schedule(tmp_path)
  full = tmp_path / "evaluations.json.tmp"
  full.symlink_to("/dev/full")
  schedule.mark(10)
  schedule.commit()
  assert "No space left" in caplog.text
  assert schedule.is_to_commit
  schedule.commit()  # the failure has removed the link
  assert not _schedule(tmp_path).is_pending(10)
