"""Two workers in Model Garden's unmodified driver, started by mnv2-launch."""

import subprocess
import sys

import helpers_programs
import pytest
import tensorflow as tf

from mnv2_hpu.reporting import curves

pytestmark = pytest.mark.slow

TRAIN, VALIDATION = 1438, 359


def test_two_workers_train_and_evaluate(digits_records, tmp_path):
  settings = {
    "batch_size": 16,
    "eval_batch_size": 50,
    "image_size": 32,
    "log_every_steps": 1,
    "train_epochs": 2 * 2 * 16 / TRAIN,
    "distribution_strategy": "'multi_worker_mirrored'",
  }
  params = [f"mobilenet_v2_classification.{k} = {v}" for k, v in settings.items()]
  command = [
    *(sys.executable, "-m", "mnv2_hpu.cli.launch", "--np=2", "--"),
    *(sys.executable, "-W", "ignore", "-m", helpers_programs.STOCK_DRIVER),
    "--experiment=mobilenet_v2_classification",
    "--gin_file=gin/digits.gin",
    f"--gin_params=DATA_DIR = '{digits_records}'",
    *(f"--gin_params={param}" for param in params),
    # Model Garden's default, with which TensorFlow restores outside the scope.
    "--params_override=trainer.preemption_on_demand_checkpoint=true",
    "--mode=train_and_eval",
    f"--model_dir={tmp_path}",
  ]

  done = subprocess.run(
    command, cwd=helpers_programs.ROOT, capture_output=True, text=True, check=False
  )

  output = done.stdout + done.stderr
  assert done.returncode == 0, output[-5000:]
  assert "CollectiveAllReduceStrategy, 2 processes" in output
  assert tf.train.latest_checkpoint(str(tmp_path)).endswith("ckpt-2")
  loss = curves.read_scalars(str(tmp_path / "train"))["training_loss"]
  assert [step for step, _ in loss] == [1, 2]
  ((step, accuracy),) = curves.read_scalars(str(tmp_path / "validation"))["accuracy"]
  assert step == 2
  hits = accuracy * VALIDATION  # each held-out digit counts once
  assert hits == pytest.approx(round(hits), abs=1e-3)
