"""`mnv2-evaluate --continuous` beside a training: programs, default settings."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import helpers_programs
import pytest
import tensorflow as tf

from mnv2_hpu.core import run_record
from mnv2_hpu.data_preparation import digits
from mnv2_hpu.reporting import curves

pytestmark = pytest.mark.slow

_SIDECAR = ("helpers_small_network", "mnv2_hpu.cli.evaluate", "--continuous")
_SETTINGS = {
  "batch_size": 32,
  "image_size": 32,
  "log_every_steps": 2,
  "checkpoint_every_epochs": 0.05,  # 2 steps
  "train_epochs": 8 * 32 / 1438,
}


def _driver(digits_records, model_dir, mode):
  """Returns the stock driver's command line, without the interpreter."""
  return [
    "helpers_small_network",
    helpers_programs.STOCK_DRIVER,
    "--experiment=mobilenet_v2_classification",
    "--gin_file=gin/digits.gin",
    f"--gin_params=DATA_DIR = '{digits_records}'",
    *(
      f"--gin_params=mobilenet_v2_classification.{name} = {value}"
      for name, value in _SETTINGS.items()
    ),
    f"--mode={mode}",
    f"--model_dir={model_dir}",
  ]


@pytest.fixture(scope="module")
def followed(programs, digits_records, tmp_path_factory):
  """A run of 8 steps, and the output of its sidecar, which waited for it to begin."""
  model_dir = tmp_path_factory.mktemp("followed") / "run"
  output = ""
  with subprocess.Popen(
    [sys.executable, "-W", "ignore", "-m", *_SIDECAR, f"--model_dir={model_dir}"],
    cwd=helpers_programs.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env={**os.environ, "PYTHONPATH": str(helpers_programs.TESTS)},
  ) as process:
    while f"waits for a training to begin in {model_dir}" not in output:
      line = process.stdout.readline()
      assert line, output
      output += line
    done = programs.run(*_driver(digits_records, model_dir, "train"))
    assert done.returncode == 0, done.output[-3000:]
    output += process.communicate(timeout=300)[0]
  assert process.returncode == 0, output[-3000:]
  return model_dir, output


def _log(model_dir):
  lines = (model_dir / "evaluations.jsonl").read_text().splitlines()
  return {entry["step"]: entry["metrics"] for entry in map(json.loads, lines)}


def test_it_evaluates_the_training_keeps_the_best_and_ends_with_it(followed):
  model_dir, output = followed
  evaluated = _log(model_dir)
  listed = re.search(r"not evaluated, .*: steps (.*)", output)
  skipped = [int(step) for step in listed[1].split(", ")] if listed else []
  assert sorted([*evaluated, *skipped]) == [2, 4, 6, 8]
  best = max(metrics["accuracy"] for metrics in evaluated.values())
  assert f"evaluated {len(evaluated)} checkpoints: best accuracy={best:.5g}" in output
  info = json.loads((model_dir / "best" / "info.json").read_text())
  assert info["accuracy"] == pytest.approx(best, rel=1e-6)
  best_checkpoint = tf.train.load_checkpoint(str(model_dir / "best"))
  step = best_checkpoint.get_tensor("global_step/.ATTRIBUTES/VARIABLE_VALUE")
  assert step == info["best_ckpt_global_step"]
  assert evaluated[step]["accuracy"] == best


def test_its_numbers_are_those_of_the_stock_driver(
  followed, programs, digits_records, tmp_path
):
  model_dir = tmp_path / "run"
  shutil.copytree(followed[0], model_dir)
  shutil.rmtree(model_dir / "validation")
  done = programs.run(
    *_driver(digits_records, model_dir, "continuous_eval"),
    "--params_override=trainer.continuous_eval_timeout=2",
  )
  assert done.returncode == 0, done.output[-3000:]
  for name, logged in curves.read_scalars(str(model_dir / "validation")).items():
    if name in ("accuracy", "top_5_accuracy", "validation_loss"):
      assert logged[-1] == (8, pytest.approx(_log(model_dir)[8][name], rel=1e-6))


def test_started_again_it_repeats_nothing_and_says_the_best(followed, programs):
  model_dir, output = followed
  before = (model_dir / "evaluations.jsonl").read_text()
  done = programs.run(*_SIDECAR, f"--model_dir={model_dir}")
  assert done.returncode == 0, done.output[-3000:]
  assert (model_dir / "evaluations.jsonl").read_text() == before
  assert output.strip().splitlines()[-1] in done.output


def test_evaluating_once_gives_the_same_numbers_and_each_class(
  followed, programs, digits_records, tmp_path
):
  model_dir, _ = followed
  logged = _log(model_dir)[8]

  def evaluate(*flags):
    done = programs.run(
      "helpers_small_network",
      "mnv2_hpu.cli.evaluate",
      f"--checkpoint={model_dir / 'ckpt-8'}",
      *flags,
    )
    assert done.returncode == 0, done.output[-3000:]
    return {
      line.split()[0]: float(line.split()[1])
      for line in done.output.splitlines()
      if line.startswith(("  accuracy", "  top_5", "  validation_loss"))
    }

  for name, value in evaluate(f"--output_dir={tmp_path}").items():
    assert value == pytest.approx(logged[name], abs=1e-5), name
  raw = evaluate("--weights=raw")
  assert raw["validation_loss"] != pytest.approx(logged["validation_loss"], abs=1e-3)
  classes = (tmp_path / "per_class.csv").read_text().splitlines()
  counts = [int(line.split(",")[2]) for line in classes[1:]]
  part = f"{digits_records}/validation-*"
  assert len(counts) == 10
  assert (
    sum(counts) == json.loads((tmp_path / "metrics.json").read_text())["num_examples"]
  )
  assert evaluate(f"--input_path={part}") == evaluate()


def test_a_run_predicts_files(followed, programs, tmp_path):
  digits.write_digits(str(tmp_path / "images"))
  sheet = tmp_path / "sheet.png"
  done = programs.run(
    "helpers_small_network",
    "mnv2_hpu.cli.predict",
    f"--model={followed[0]}",
    "--format=jsonl",
    f"--contact_sheet={sheet}",
    str(tmp_path / "images" / "validation" / "7"),
  )
  assert done.returncode == 0, done.output[-3000:]
  rows = [json.loads(line) for line in done.output.splitlines() if line[:1] == "{"]
  assert len(rows) == 36
  assert all(len(row["predictions"]) == 3 for row in rows)
  assert sheet.stat().st_size > 10_000


@pytest.mark.long("a killed training has a minute to be started again")
def test_a_killed_training_and_a_corrupt_checkpoint_are_said(
  followed, programs, tmp_path
):
  model_dir = tmp_path / "run"
  shutil.copytree(followed[0], model_dir)
  for name in ("finished.json", "evaluations.jsonl"):
    (model_dir / name).unlink()
  shutil.rmtree(model_dir / "best")
  holder = {"pid": 4_000_000, "host": socket.gethostname(), "started": "today"}
  (model_dir / run_record.LOCK_FILE).write_text(json.dumps(holder))
  data = model_dir / "ckpt-6.data-00000-of-00001"
  data.write_bytes(data.read_bytes()[:-1000])

  done = programs.run(*_SIDECAR, f"--model_dir={model_dir}")

  assert done.returncode == 1, done.output[-3000:]
  assert "step 6: skipped, its checkpoint cannot be read" in done.output
  assert sorted(_log(model_dir)) == [2, 4, 8]
  assert "waits 60 s for it to be started again" in done.output
  assert re.search("error: the training in .* is gone without having", done.output)
  assert "Traceback" not in done.output
