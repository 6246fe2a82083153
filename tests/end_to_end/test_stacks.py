"""A run that changes its stack there and back is the run that stayed, bit for bit."""

import os
import subprocess
import sys

import helpers_checkpoint_diff
import helpers_programs
import pytest
import tensorflow as tf

OTHER = os.environ.get("OTHER_STACK_PYTHON")  # set by tools/test.sh

pytestmark = [
  pytest.mark.slow,
  pytest.mark.checkout,
  pytest.mark.skipif(
    not OTHER, reason="the other stack is not set up: make test STACK=2.20 after 2.15's"
  ),
]

BATCH = 32


def train(python, digits_records, model_dir, steps):
  """Trains up to a step with the interpreter of a stack, as a program."""
  settings = {
    "batch_size": BATCH,
    "image_size": 32,
    "log_every_steps": 1,
    "train_epochs": steps * BATCH / 1438,
  }
  bindings = [f"mobilenet_v2_classification.{k} = {v}" for k, v in settings.items()]
  bindings.append(f"DATA_DIR = '{digits_records}'")
  done = subprocess.run(
    [
      python,
      "-m",
      "helpers_small_network",
      helpers_programs.STOCK_DRIVER,
      "--experiment=mobilenet_v2_classification",
      "--gin_file=gin/digits.gin",
      *(f"--gin_params={binding}" for binding in bindings),
      "--mode=train",
      f"--model_dir={model_dir}",
    ],
    cwd=helpers_programs.ROOT,
    env={**os.environ, "PYTHONPATH": str(helpers_programs.TESTS)},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  assert done.returncode == 0, done.stdout[-3000:]


def version(python):
  code = "import tensorflow as tf; print(tf.__version__)"
  done = subprocess.run([python, "-c", code], capture_output=True, text=True)
  return done.stdout.strip()


def test_the_other_stack_is_another_one():
  assert version(OTHER) not in ("", tf.__version__)


def test_there_and_back_is_the_run_that_stayed(digits_records, tmp_path):
  stayed, moved = tmp_path / "stayed", tmp_path / "moved"
  train(sys.executable, digits_records, stayed, 9)
  for python, steps in ((sys.executable, 3), (OTHER, 6), (sys.executable, 9)):
    train(python, digits_records, moved, steps)

  newest = tf.train.latest_checkpoint(str(moved))
  assert newest.endswith("ckpt-9")
  assert len(tf.train.list_variables(newest)) > 50
  assert helpers_checkpoint_diff.differences(newest, str(stayed)) == []
