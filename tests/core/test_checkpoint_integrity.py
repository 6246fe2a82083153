"""Corrupt checkpoints, made by corrupting real ones; missing and foreign ones."""

import os

import pytest
import tensorflow as tf

from mnv2_hpu.compat import keras
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
    checkpoint_integrity.quarantine_corrupt(str(run))
  assert tf.train.latest_checkpoint(str(run)) == str(run / "ckpt-20")
  assert "ckpt-30" in caplog.text
  assert "goes on from" in caplog.text
  # Moved, not deleted.
  moved = {path.name for path in (run / "corrupt_checkpoints").iterdir()}
  assert moved == before
  # The manager goes on with the list, and with the folder under another name.
  moved = run.rename(run.with_name(f"{run.name}_moved"))
  manager = tf.train.CheckpointManager(tf.train.Checkpoint(), str(moved), 5)
  assert manager.checkpoints == [str(moved / "ckpt-10"), str(moved / "ckpt-20")]


def test_two_corrupt_checkpoints_are_both_skipped(run):
  os.truncate(run / "ckpt-30.index", 10)
  os.truncate(run / "ckpt-20.index", 10)
  checkpoint_integrity.quarantine_corrupt(str(run))
  assert tf.train.latest_checkpoint(str(run)) == str(run / "ckpt-10")


def test_a_folder_without_corruption_is_left_as_it_is(run):
  before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
  checkpoint_integrity.quarantine_corrupt(str(run))
  assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_unfinished_save_is_removed(run):
  (run / "ckpt-40_temp").mkdir()
  (run / "ckpt-40_temp" / "part-00000-of-00001.data-00000-of-00001").write_text("x")
  checkpoint_integrity.quarantine_corrupt(str(run))
  assert not list(run.glob("*_temp"))


def test_the_empty_list_of_the_best_checkpoint_stops_no_training(run):
  best = run / "best_ckpt"
  best.mkdir()
  (best / "checkpoint").touch()  # as a crash of the machine leaves it
  checkpoint_integrity.quarantine_corrupt(str(run))
  assert (
    tf.train.CheckpointManager(tf.train.Checkpoint(), str(best), 1).checkpoints == []
  )


@pytest.mark.parametrize("content", ["", "model_checkpoint_path: ", None])
def test_a_corrupt_or_missing_list_is_restored_from_the_files(run, content):
  (run / "checkpoint").unlink()
  if content is not None:
    (run / "checkpoint").write_text(content)
  os.truncate(run / "ckpt-30.index", 10)
  with pytest.raises(UserError, match="Training in this folder restores the list"):
    checkpoint_integrity.require_checkpoint(str(run))
  checkpoint_integrity.quarantine_corrupt(str(run))
  assert tf.train.latest_checkpoint(str(run)) == str(run / "ckpt-20")


def test_without_any_readable_checkpoint_nothing_starts_from_step_0(run):
  for step in _STEPS:
    os.truncate(run / f"ckpt-{step}.index", 10)
  with pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
    checkpoint_integrity.quarantine_corrupt(str(run))
  assert len(list(run.glob("ckpt-*.index"))) == 3  # nothing moved


def test_training_starts_in_an_empty_or_missing_folder(tmp_path):
  checkpoint_integrity.quarantine_corrupt(str(tmp_path))
  checkpoint_integrity.quarantine_corrupt(str(tmp_path / "missing"))
  assert not list(tmp_path.iterdir())


def test_evaluation_refuses_a_corrupt_checkpoint_and_moves_nothing(run):
  checkpoint_integrity.require_checkpoint(str(run))
  os.truncate(run / "ckpt-30.data-00000-of-00001", 20000)
  with pytest.raises(UserError, match=r"ckpt-30.* cannot be read"):
    checkpoint_integrity.require_checkpoint(str(run))
  assert tf.train.latest_checkpoint(str(run)) == str(run / "ckpt-30")


def test_evaluating_what_is_no_run_is_refused(tmp_path):
  (tmp_path / "notes.txt").write_text("x")
  for model_dir, text in {
    tmp_path: r"no checkpoint, but notes\.txt: nothing to evaluate",
    tmp_path / "missing": "does not exist",
    tmp_path / "notes.txt": "is a file",
    tmp_path / "notes.txt" / "run": "does not exist",
  }.items():
    with pytest.raises(UserError, match=text):
      checkpoint_integrity.require_checkpoint(str(model_dir))


def _model(units):
  return keras.Sequential([keras.layers.Dense(units, input_shape=(3,))])


def test_folder_whose_name_is_a_pattern_is_refused(run):
  renamed = run.rename(run.parent / "run[12]")
  with pytest.raises(UserError, match=r"run\[12\]': .* for a pattern.*Rename"):
    checkpoint_integrity.require_checkpoint(str(renamed))


def test_checkpoint_of_another_network_is_refused(tmp_path):
  folder = str(tmp_path / "run")
  checkpoint = tf.train.Checkpoint(model=_model(2))
  path = tf.train.CheckpointManager(checkpoint, folder, 1).save()
  checkpoint_integrity.require_checkpoint(folder)
  checkpoint_integrity.check_fits(folder, _model(2))
  with pytest.raises(UserError, match=r"another network.*\[5\]"):
    checkpoint_integrity.check_fits(folder, _model(5))
  os.truncate(f"{path}.index", 10)
  with pytest.raises(UserError, match="cannot be read"):
    checkpoint_integrity.check_fits(folder, _model(2))
