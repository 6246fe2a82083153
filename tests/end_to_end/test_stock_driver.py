"""Model Garden's unmodified driver, in every mode, as a program of its own."""

import json
import subprocess
import sys
import time

import helpers_programs
import numpy as np
import pytest
import tensorflow as tf
import yaml

from mnv2_hpu.core import run_record
from mnv2_hpu.reporting import curves

pytestmark = pytest.mark.slow

# With a network that is soon traced, where a test is not about the network.
SMALL = ("helpers_small_network", helpers_programs.STOCK_DRIVER)


def _args(digits_records, model_dir, mode, *bindings):
  small = {
    "batch_size": 32,
    "eval_batch_size": 50,
    "log_every_steps": 2,
    "image_size": 32,
    "checkpoint_every_epochs": 0.05,
  }
  params = [f"mobilenet_v2_classification.{k} = {v}" for k, v in small.items()]
  params += [f"DATA_DIR = '{digits_records}'", *bindings]
  return [
    "--experiment=mobilenet_v2_classification",
    "--gin_file=gin/digits.gin",
    *(f"--gin_params={param}" for param in params),
    f"--mode={mode}",
    f"--model_dir={model_dir}",
  ]


def _epochs(steps):
  """Epochs of 1,438 digits in batches of 32 that give so many steps."""
  return f"mobilenet_v2_classification.train_epochs = {steps * 32 / 1438}"


@pytest.fixture(scope="module")
def trained(digits_records, tmp_path_factory):
  """A run of four steps, by the command that the README shows."""
  model_dir = tmp_path_factory.mktemp("run")
  process = subprocess.Popen(
    [
      sys.executable,
      "-m",
      helpers_programs.STOCK_DRIVER,
      *_args(digits_records, model_dir, "train", _epochs(4)),
    ],
    cwd=helpers_programs.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  output, last_line = "", 0.0
  for line in process.stdout:
    output, last_line = output + line, time.monotonic()
  assert process.wait() == 0, output[-3000:]
  return model_dir, output, time.monotonic() - last_line


def _step(model_dir):
  return int(
    tf.train.load_checkpoint(str(model_dir)).get_tensor(
      "global_step/.ATTRIBUTES/VARIABLE_VALUE"
    )
  )


def test_training_says_what_will_happen(trained):
  output = " ".join(trained[1].split())  # the width of the table's columns may change
  for text in (
    "OneDeviceStrategy, 1 process",
    "compute dtype float32",
    "32 on 1 replica",
    "1,438 examples",
    "exponential, warm-up of 44 steps",
    "trainable parameters",
    "4 files",
  ):
    assert text in output
  assert "np.float" not in output  # how NumPy 2 shows a scalar


def test_a_finished_run_ends_with_its_last_line_and_says_so(trained):
  """TensorFlow may take a minute to destroy the iterators (docs/benchmarks.md)."""
  model_dir, _, seconds = trained
  assert seconds < 5
  assert run_record.finished_step(str(model_dir)) == 4
  assert not run_record.is_training(str(model_dir))


def test_training_writes_its_record_before_the_first_step(trained):
  model_dir, *_ = trained
  record = json.loads((model_dir / "run_record.json").read_text())
  assert record["config"]["task"]["model"]["num_classes"] == 10
  assert (
    "mobilenet_v2_classification"
    in (model_dir / "operative_config.start.gin").read_text()
  )


def test_eval_reports_every_held_out_digit(trained, programs, digits_records):
  model_dir, *_ = trained
  args = _args(digits_records, model_dir, "eval")
  done = programs.run(helpers_programs.STOCK_DRIVER, *args)
  assert done.returncode == 0, done.output[-3000:]
  accuracy = curves.read_scalars(str(model_dir / "validation"))["accuracy"][-1][1]
  hits = accuracy * 359  # a share of all images: 359 in batches of 50
  assert hits == pytest.approx(round(hits), abs=1e-3)


@pytest.fixture(scope="module")
def evaluated_along(programs, digits_records, tmp_path_factory):
  """The model folder of four steps with an evaluation after each two."""
  model_dir = tmp_path_factory.mktemp("evaluated_along")
  args = _args(
    digits_records,
    model_dir,
    "continuous_train_and_eval",
    _epochs(4),
    f"mobilenet_v2_classification.eval_every_epochs = {2 * 32 / 1438}",
  )
  done = programs.run(*SMALL, *args)
  assert done.returncode == 0, done.output[-3000:]
  return model_dir


def test_continuous_train_and_eval_trains_and_evaluates(evaluated_along):
  assert _step(evaluated_along) == 4
  validation = curves.read_scalars(str(evaluated_along / "validation"))
  assert [step for step, _ in validation["accuracy"]] == [2, 4]
  assert set(validation) >= {"accuracy", "raw_accuracy", "validation_loss"}


def test_continuous_eval_ends_after_the_last_checkpoint(
  evaluated_along, programs, digits_records
):
  args = _args(digits_records, evaluated_along, "continuous_eval", _epochs(4))
  args.append("--params_override=trainer.continuous_eval_timeout=2")
  done = programs.run(*SMALL, *args)
  assert done.returncode == 0, done.output[-3000:]
  assert "eval | step:" in done.output


def test_resume_goes_on_where_it_stopped(evaluated_along, programs, digits_records):
  assert _step(evaluated_along) == 4
  args = _args(digits_records, evaluated_along, "train", _epochs(6))
  done = programs.run(*SMALL, *args)
  assert done.returncode == 0, done.output[-3000:]
  assert _step(evaluated_along) == 6
  loss = curves.read_scalars(str(evaluated_along / "train"))["training_loss"]
  assert [step for step, _ in loss] == [2, 4, 6]
  assert np.isfinite([value for _, value in loss]).all()


def test_a_failed_training_shows_in_the_exit_code_of_our_command(
  programs, digits_records, tmp_path
):
  args = _args(
    digits_records,
    tmp_path / "run",
    "train",
    _epochs(4),
    "mobilenet_v2_classification.learning_rate = 1e30",
    "mobilenet_v2_classification.warmup_epochs = 0",
  )
  done = programs.run("helpers_small_network", "mnv2_hpu.cli.train", *args)
  assert done.returncode == 1, done.output[-3000:]
  assert "NaN or infinite" in done.output


def test_a_refused_training_leaves_the_files_of_the_run(
  evaluated_along, programs, digits_records
):
  path = evaluated_along / "params.yaml"
  before = dict(run_record.flatten(yaml.unsafe_load(path.read_text())))
  args = _args(
    digits_records,
    evaluated_along,
    "train",
    _epochs(8),
    "mobilenet_v2_classification.rho = 0.8",
  )
  done = programs.run(*SMALL, *args)
  assert done.returncode == 1
  assert "holds a run with another recipe" in done.output
  after = dict(run_record.flatten(yaml.unsafe_load(path.read_text())))
  assert after == before
