"""Damaged checkpoints, made by damaging real ones."""

import os

import pytest
import tensorflow as tf

from mnv2_hpu.core import checkpoint_integrity
from mnv2_hpu.errors import UserError

_STEPS = (10, 20, 30)


@pytest.fixture
def run(tmp_path):
  """A folder with checkpoints of three steps, as the trainer writes them."""
  step = tf.Variable(0, dtype=tf.int64)
  weights = tf.Variable(tf.zeros([100, 100]))
  checkpoint = tf.train.Checkpoint(global_step=step, model=weights)
  manager = tf.train.CheckpointManager(checkpoint, str(tmp_path), max_to_keep=5)
  for number in _STEPS:
    step.assign(number)
    weights.assign(tf.random.normal(weights.shape))
    manager.save(checkpoint_number=number)
  return tmp_path


def _flip(path, offset):
  content = bytearray(path.read_bytes())
  content[offset] ^= 1
  path.write_bytes(content)


_CORRUPTIONS = {
  "data cut short": lambda run: os.truncate(run / "ckpt-30.data-00000-of-00001", 20000),
  "one bit of the data": lambda run: _flip(run / "ckpt-30.data-00000-of-00001", 12345),
  "index empty": lambda run: os.truncate(run / "ckpt-30.index", 0),
  "index cut short": lambda run: os.truncate(run / "ckpt-30.index", 100),
  "one bit of the index": lambda run: _flip(run / "ckpt-30.index", 60),
  "data gone": lambda run: (run / "ckpt-30.data-00000-of-00001").unlink(),
  "index gone": lambda run: (run / "ckpt-30.index").unlink(),
}


@pytest.mark.parametrize("corrupt", _CORRUPTIONS.values(), ids=_CORRUPTIONS)
def test_the_one_before_a_corrupt_checkpoint_is_used(run, caplog, corrupt):
  corrupt(run)
  before = {path.name for path in run.glob("ckpt-30*")}
  with caplog.at_level("ERROR"):
    used = checkpoint_integrity.quarantine_corrupt(str(run))
  assert used == str(run / "ckpt-20")
  assert tf.train.latest_checkpoint(str(run)) == str(run / "ckpt-20")
  assert "ckpt-30" in caplog.text
  assert "goes on from" in caplog.text
  # Set aside, not deleted.
  aside = {path.name for path in (run / "damaged_checkpoints").iterdir()}
  assert aside == before
  # The manager goes on with the list, and with the folder under another name.
  moved = run.rename(run.with_name(f"{run.name}_moved"))
  manager = tf.train.CheckpointManager(tf.train.Checkpoint(), str(moved), 5)
  assert manager.checkpoints == [str(moved / "ckpt-10"), str(moved / "ckpt-20")]


def test_two_damaged_checkpoints_are_both_passed_over(run):
  os.truncate(run / "ckpt-30.index", 10)
  os.truncate(run / "ckpt-20.index", 10)
  assert checkpoint_integrity.quarantine_corrupt(str(run)) == str(run / "ckpt-10")


def test_sound_folder_is_left_as_it_is(run):
  before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
  assert checkpoint_integrity.quarantine_corrupt(str(run)) == str(run / "ckpt-30")
  assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_unfinished_save_is_removed(run):
  (run / "ckpt-40_temp").mkdir()
  (run / "ckpt-40_temp" / "part-00000-of-00001.data-00000-of-00001").write_text("x")
  assert checkpoint_integrity.quarantine_corrupt(str(run)) == str(run / "ckpt-30")
  assert not list(run.glob("*_temp"))


@pytest.mark.parametrize("content", ["", "model_checkpoint_path: "])
def test_damaged_list_is_made_anew_from_the_files(run, content):
  (run / "checkpoint").write_text(content)
  os.truncate(run / "ckpt-30.index", 10)
  assert checkpoint_integrity.quarantine_corrupt(str(run)) == str(run / "ckpt-20")
  assert tf.train.latest_checkpoint(str(run)) == str(run / "ckpt-20")


def test_without_any_sound_checkpoint_nothing_starts_from_scratch(run):
  for step in _STEPS:
    os.truncate(run / f"ckpt-{step}.index", 10)
  with pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
    checkpoint_integrity.quarantine_corrupt(str(run))
  assert len(list(run.glob("ckpt-*.index"))) == 3  # nothing moved


def test_empty_folder_has_no_checkpoint(tmp_path):
  assert checkpoint_integrity.quarantine_corrupt(str(tmp_path)) is None
  assert checkpoint_integrity.quarantine_corrupt(str(tmp_path / "missing")) is None


def test_evaluation_refuses_a_damaged_checkpoint_and_moves_nothing(run):
  checkpoint_integrity.require_readable(str(run))
  os.truncate(run / "ckpt-30.data-00000-of-00001", 20000)
  with pytest.raises(UserError, match=r"ckpt-30.* cannot be read"):
    checkpoint_integrity.require_readable(str(run))
  assert tf.train.latest_checkpoint(str(run)) == str(run / "ckpt-30")
