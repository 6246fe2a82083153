import pytest
import tensorflow as tf

from mnv2_hpu.errors import UserError
from mnv2_hpu.reporting import curves


def write(directory, points, suffix):
  writer = tf.summary.create_file_writer(str(directory), filename_suffix=suffix)
  with writer.as_default():
    for step, value in points:
      tf.summary.scalar("loss", value, step=step)
    tf.summary.text("note", "not a number", step=0)
  writer.close()


def test_reads_what_tf_summary_wrote(tmp_path):
  write(tmp_path / "train", [(10, 2.0), (20, 1.5)], ".a")
  write(tmp_path / "validation", [(20, 1.75)], ".a")
  read = curves.read(str(tmp_path))
  assert read.train == {"loss": [(10, 2.0), (20, 1.5)]}
  assert read.validation == {"loss": [(20, 1.75)]}


def test_more_points_than_tensorboard_samples_are_all_kept(tmp_path):
  points = [(step, float(step)) for step in range(1500)]
  write(tmp_path, points, ".a")
  assert curves.read_scalars(str(tmp_path))["loss"] == points


def test_resumed_run_replaces_the_steps_after_its_checkpoint(tmp_path):
  write(tmp_path, [(10, 2.0), (20, 1.5), (30, 9.0)], ".first")
  write(tmp_path, [(25, 1.25), (35, 1.0)], ".second")
  assert curves.read_scalars(str(tmp_path))["loss"] == [
    (10, 2.0),
    (20, 1.5),
    (25, 1.25),
    (35, 1.0),
  ]


def test_file_of_a_killed_run_is_read_as_far_as_it_goes(tmp_path):
  write(tmp_path, [(10, 2.0), (20, 1.5), (30, 1.0)], ".a")
  (path,) = tmp_path.iterdir()
  path.write_bytes(path.read_bytes()[:-100])
  read = curves.read_scalars(str(tmp_path))["loss"]
  assert read[0] == (10, 2.0)
  assert len(read) < 4


@pytest.mark.parametrize("there", [None, "params.yaml"])
def test_folder_without_events_is_the_users_mistake(tmp_path, there):
  if there:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / there).touch()
  with pytest.raises(UserError, match=there or "does not exist"):
    curves.read(str(tmp_path))
