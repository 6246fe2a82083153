"""Runs that are killed, stopped or broken, and the same runs undisturbed."""

import re
import subprocess

import helpers_short_runs
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.core import termination

pytestmark = pytest.mark.slow

_STEPS = 8
_SMALL = {
  "batch_size": 32,
  "eval_batch_size": 120,
  "log_every_steps": 2,
  "image_size": 32,
  "train_epochs": _STEPS * 32 / 1438,
  "checkpoint_every_epochs": 4 * 32 / 1438,
  "eval_every_epochs": 4 * 32 / 1438,
}


def _args(digits_records, model_dir, mode="train_and_eval", **changed):
  return helpers_short_runs.arguments(
    "mobilenet_v2_classification",
    "gin/digits.gin",
    digits_records,
    model_dir,
    mode=mode,
    settings={**_SMALL, **changed},
  )


@pytest.fixture(scope="module")
def undisturbed(digits_records, programs, tmp_path_factory):
  model_dir = tmp_path_factory.mktemp("undisturbed")
  helpers_short_runs.run(programs, _args(digits_records, model_dir))
  return model_dir


# Dropout, the order of examples and their distortions are all in these steps.
@pytest.mark.parametrize(
  "fault", ["stepping:6", "saving:6", "evaluating:8", "noting_the_best:4"]
)
def test_killed_and_restarted_run_is_the_undisturbed_one(
  fault, undisturbed, digits_records, programs, tmp_path
):
  args = _args(digits_records, tmp_path)
  helpers_short_runs.kill(programs, fault, args)
  helpers_short_runs.run(programs, args)
  assert tf.train.latest_checkpoint(str(tmp_path)).endswith(f"ckpt-{_STEPS}")
  helpers_short_runs.assert_same(tmp_path, undisturbed)


def test_a_run_that_resumes_with_a_profiler_is_the_undisturbed_one(
  undisturbed, digits_records, programs, tmp_path
):
  args = _args(digits_records, tmp_path)
  helpers_short_runs.kill(programs, "stepping:6", args)
  train = ("helpers_small_network", "mnv2_hpu.cli.train")
  done = programs.run(*train, *args, "--profile_steps=6,7")
  assert done.returncode == 0, done.output[-3000:]
  assert "The trace of steps 6 to 7 is in" in done.output
  assert len(list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))) == 1
  helpers_short_runs.assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize("step", [2, 4])  # while training; at an evaluation
def test_sigterm_saves_a_checkpoint_from_which_the_run_goes_on(
  step, undisturbed, digits_records, programs, tmp_path
):
  args = _args(digits_records, tmp_path)
  ended = programs.run("helpers_faulty_run", f"terminated:{step}", *args)
  assert ended.returncode == termination.EXIT_PREEMPTED, ended.output[-3000:]
  assert "SIGTERM: a checkpoint will be saved" in ended.output
  assert int(tf.train.latest_checkpoint(str(tmp_path)).split("-")[-1]) >= step
  helpers_short_runs.run(programs, args)
  helpers_short_runs.assert_same(tmp_path, undisturbed)


def test_bad_loss_ends_the_run_names_the_step_and_is_not_saved(
  digits_records, programs, tmp_path
):
  args = _args(
    digits_records,
    tmp_path,
    mode="train",
    learning_rate=1e30,
    warmup_epochs=0,
    log_every_steps=1,
  )
  done = programs.run(*helpers_short_runs.DRIVER, *args)
  assert done.returncode == 1
  assert re.search(
    r"error: (the loss of|after) step [1-8] .*NaN or infin", done.output
  ), done.output[-3000:]
  newest = tf.train.latest_checkpoint(str(tmp_path))
  if newest:
    reader = tf.train.load_checkpoint(newest)
    for name, dtype in reader.get_variable_to_dtype_map().items():
      if dtype.is_floating:
        assert np.isfinite(reader.get_tensor(name)).all(), name


@pytest.fixture
def small_disk(tmp_path):
  """A file system of its own with room for three checkpoints."""
  folder = tmp_path / "disk"
  folder.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
  if subprocess.run(mount, check=False, capture_output=True).returncode:
    pytest.skip("needs the right to mount a file system")
  yield folder
  subprocess.run(["umount", "-l", str(folder)], check=True)


def test_training_goes_on_where_the_disk_is_full(digits_records, programs, small_disk):
  model_dir = small_disk / "run"
  args = _args(digits_records, model_dir, mode="train")
  done = programs.run("helpers_faulty_run", "disk_full:4", *args)
  assert f"train | step: {_STEPS:6d}" in done.output, done.output[-3000:]
  said = re.findall(r"CHECKPOINT NOT SAVED: .*ckpt-(\d+).*No space left", done.output)
  assert len(said) > 2  # again at each loop
  assert set(said) <= {"6", "8"}
  assert done.returncode == 1  # the last checkpoint is missing
  assert "error: the last checkpoint is missing" in done.output
  assert not list(model_dir.glob("ckpt-*_temp"))
  # With room again, the run goes on from the checkpoint that was kept.
  (model_dir / "filler").unlink()
  output = helpers_short_runs.run(programs, args)
  assert "restored from checkpoint" in output
  assert tf.train.latest_checkpoint(str(model_dir)).endswith(f"ckpt-{_STEPS}")
