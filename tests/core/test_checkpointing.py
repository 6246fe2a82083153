"""Checkpoints that a thread writes: what they hold, and what a failure leaves."""

import subprocess
import sys
import threading

import pytest
import tensorflow as tf

from mnv2_hpu.core import checkpointing, finite
from mnv2_hpu.errors import UserError

STEP = "global_step/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture
def saved():
  """A checkpoint of one step variable and one weight."""
  items = {
    "global_step": tf.Variable(3, dtype=tf.int64),
    "weight": tf.Variable(tf.ones([1000])),
  }
  return checkpointing.FaultTolerantCheckpoint(lambda: None, **items)


def _gated(gate):
  """Options of a save that cannot end before the gate is open."""
  return tf.train.CheckpointOptions(
    experimental_write_callbacks=[lambda path: gate.wait(60)]
  )


def test_it_holds_the_values_of_its_moment_in_the_file_that_tensorflow_writes(
  saved, tmp_path
):
  saved.save_counter.assign(2)  # made at its first use
  tf.train.Checkpoint._write(saved, str(tmp_path / "stock" / "ckpt"))
  saved.write(str(tmp_path / "ours" / "ckpt"))
  saved.weight.assign_add(tf.ones([1000]))
  saved.global_step.assign_add(1)
  assert saved.wait()
  for name in ("ckpt.index", "ckpt.data-00000-of-00001"):
    stock = (tmp_path / "stock" / name).read_bytes()
    assert (tmp_path / "ours" / name).read_bytes() == stock


def test_training_goes_on_while_it_is_written_and_it_is_listed_afterwards(
  saved, tmp_path
):
  manager = tf.train.CheckpointManager(saved, str(tmp_path), max_to_keep=1)
  manager.save(3)
  saved.sync()
  gate = threading.Event()
  manager.save(4, options=_gated(gate))  # returns while the gate is closed
  assert tf.train.latest_checkpoint(str(tmp_path)).endswith("ckpt-3")
  gate.set()
  assert saved.wait()
  assert tf.train.latest_checkpoint(str(tmp_path)).endswith("ckpt-4")


def test_one_that_cannot_be_written_is_said_and_the_next_one_is_tried(
  saved, tmp_path, caplog
):
  folder = tmp_path / "run"
  manager = tf.train.CheckpointManager(saved, str(folder), max_to_keep=3)
  folder.write_text("no folder")
  manager.save(3)
  assert not saved.wait()
  assert "CHECKPOINT NOT SAVED" in caplog.text
  with pytest.raises(UserError, match=r"the last checkpoint is missing.*ckpt-3"):
    saved.require_saved()
  folder.unlink()
  manager.save(4)
  saved.require_saved()
  assert [path.rsplit("/")[-1] for path in manager.checkpoints] == ["ckpt-4"]


def test_what_is_left_of_a_failed_one_does_not_end_the_training(
  saved, tmp_path, caplog
):
  leftover = tmp_path / "ckpt_temp"
  leftover.write_text("where the folder of the parts would be, which is no folder")
  saved.write(str(tmp_path / "ckpt"))
  assert not saved.wait()
  assert "CHECKPOINT NOT SAVED" in caplog.text


def test_an_error_that_is_not_the_disk_s_ends_the_training(saved, tmp_path):
  def fail(path):
    raise ValueError(path)

  options = tf.train.CheckpointOptions(experimental_write_callbacks=[fail])
  saved.write(str(tmp_path / "ckpt"), options)
  with pytest.raises(ValueError, match="ckpt"):
    saved.wait()


def test_weights_that_are_not_finite_are_refused_before_anything_is_written(
  saved, tmp_path
):
  saved.weight.assign(saved.weight / 0)
  with pytest.raises(finite.NotFiniteError):
    saved.write(str(tmp_path / "ckpt"))
  assert not list(tmp_path.iterdir())


PROGRAM = """
import sys, time
import tensorflow as tf
from mnv2_hpu.core import checkpointing, termination
saved = checkpointing.FaultTolerantCheckpoint(
  lambda: None, global_step=tf.Variable(3, dtype=tf.int64)
)
slow = tf.train.CheckpointOptions(
  experimental_write_callbacks=[lambda path: time.sleep(1)]
)
tf.train.CheckpointManager(saved, sys.argv[1], 1).save(3, options=slow)
termination.end_process(7)
"""


def test_a_process_that_ends_finishes_the_one_it_has_begun(tmp_path):
  result = subprocess.run(
    [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path)], check=False
  )
  assert result.returncode == 7
  newest = tf.train.latest_checkpoint(str(tmp_path))
  assert newest is not None
  assert tf.train.load_variable(newest, STEP) == 3
