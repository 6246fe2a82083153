"""Quantization-aware training through the drivers: resumed, on two ranks, exported."""

import json
import os
import shutil
import subprocess
import sys

import helpers_mpirun
import helpers_programs
import helpers_short_runs
import numpy as np
import pytest

from mnv2_hpu import compat

pytestmark = pytest.mark.slow

EXPERIMENT = "mobilenet_v2_classification_qat"
LAUNCHERS = {
  "multi_worker_mirrored": (
    *(sys.executable, "-m", "mnv2_hpu.cli.launch", "--np=2", "--"),
  ),
  "horovod": (f"{sys.prefix}/bin/horovodrun", "-np", "2"),
}
_STEPS = 6
_SMALL = {
  "batch_size": 32,
  "eval_batch_size": 120,
  "log_every_steps": 2,
  "checkpoint_every_epochs": 2 * 32 / 1438,
  "eval_every_epochs": 2 * 32 / 1438,
  "train_epochs": _STEPS * 32 / 1438,
}


@pytest.fixture(scope="module")
def float_run(digits_records, programs, tmp_path_factory):
  model_dir = tmp_path_factory.mktemp("float")
  settings = {**_SMALL, "image_size": 32}
  args = helpers_short_runs.arguments(
    "mobilenet_v2_classification",
    "gin/digits.gin",
    digits_records,
    model_dir,
    mode="train",
    settings=settings,
  )
  helpers_short_runs.run(programs, args)
  return model_dir


def arguments(float_run, records, model_dir, **changed):
  """Nothing of the network is bound: it is the float run's."""
  freeze = {"freeze_batch_norm_epochs": 4 * 32 / 1438}
  args = helpers_short_runs.arguments(
    EXPERIMENT,
    "gin/qat/classification.gin",
    records,
    model_dir,
    mode="train_and_eval",
    settings={**_SMALL, **freeze, **changed},
  )
  return [*args, f"--gin_params=START = '{float_run}'"]


@pytest.fixture(scope="module")
def undisturbed(float_run, digits_records, programs, tmp_path_factory):
  model_dir = tmp_path_factory.mktemp("undisturbed")
  args = arguments(float_run, digits_records, model_dir)
  output = helpers_short_runs.run(programs, args)
  assert f"starts from the EMA weights of {float_run}" in output
  return model_dir


def test_the_network_is_the_float_runs(float_run, undisturbed):
  tasks = [
    json.loads((folder / "run_record.json").read_text())["config"]["task"]
    for folder in (float_run, undisturbed)
  ]
  assert tasks[0]["model"] == tasks[1]["model"]
  assert tasks[1]["train_data"]["preprocessing_options"]["flip"] is False
  assert tasks[1]["freeze_batch_norm_step"] == 4


def test_a_killed_run_that_resumes_is_the_undisturbed_one(
  undisturbed, float_run, digits_records, programs, tmp_path
):
  """Ranges, EMA and the step at which batch norms freeze are all in these steps.

  What it started from is gone then: it has all of it.
  """
  start, model_dir = tmp_path / "start", tmp_path / "run"
  shutil.copytree(float_run, start)
  args = arguments(start, digits_records, model_dir)
  helpers_short_runs.kill(programs, "stepping:4", args)
  shutil.rmtree(start)
  helpers_short_runs.run(programs, args)
  helpers_short_runs.assert_same(model_dir, undisturbed)


@pytest.mark.long("two processes that each import TensorFlow and trace, on one core")
@pytest.mark.parametrize(
  "strategy",
  [
    "multi_worker_mirrored",
    pytest.param("horovod", marks=helpers_mpirun.needs_horovod),
  ],
)
def test_two_ranks_train_one_network(strategy, float_run, digits_records, tmp_path):
  """Their variables are checked to stay equal, the ranges among them."""
  changed = {
    "batch_size": 16,
    "eval_batch_size": 60,
    "distribution_strategy": f"'{strategy}'",
  }
  done = subprocess.run(
    [
      *LAUNCHERS[strategy],
      *(sys.executable, "-W", "ignore", "-m", *helpers_short_runs.DRIVER),
      *arguments(float_run, digits_records, tmp_path, **changed),
    ],
    cwd=helpers_programs.ROOT,
    env={**os.environ, "PYTHONPATH": str(helpers_programs.TESTS)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
  found = helpers_short_runs.validation(tmp_path)
  assert [step for step, _ in found["accuracy"]] == [2, 4, 6]


def test_the_sidecar_measures_what_the_training_does(undisturbed, programs, tmp_path):
  model_dir = tmp_path / "run"
  shutil.copytree(undisturbed, model_dir)
  done = programs.run(
    *("helpers_small_network", "mnv2_hpu.cli.evaluate", "--continuous"),
    f"--model_dir={model_dir}",
  )
  assert done.returncode == 0, done.output[-3000:]
  lines = (model_dir / "evaluations.jsonl").read_text().splitlines()
  measured = {
    entry["step"]: entry["metrics"]["accuracy"] for entry in map(json.loads, lines)
  }
  trained = dict(helpers_short_runs.validation(undisturbed)["accuracy"])
  assert measured == pytest.approx({step: trained[step] for step in measured})
  assert _STEPS in measured


def test_an_export_is_int8_and_compared_with_the_float_run(
  undisturbed, programs, tmp_path
):
  done = programs.run(
    *("helpers_small_network", "mnv2_hpu.cli.export"),
    *(f"--model_dir={undisturbed}", f"--export_dir={tmp_path}"),
    *("--inference_type=int8", "--calibration_images=20"),
  )
  assert done.returncode == 0, done.output[-3000:]
  assert "int8 beside the float run it started from:" in done.output
  rows = json.loads((tmp_path / "comparison.json").read_text())
  assert list(rows) == [
    *("float checkpoint", "QAT checkpoint", "QAT int8", "post-training int8"),
  ]
  assert rows["float checkpoint"]["agreement"] == 1
  qat, int8 = rows["QAT checkpoint"], rows["QAT int8"]
  assert int8["metrics"]["accuracy"] == pytest.approx(
    qat["metrics"]["accuracy"], abs=0.02
  )
  assert int8["megabytes"] < qat["megabytes"]
  assert all(row["latency_ms"] > 0 for row in rows.values())
  interpreter = compat.tflite_interpreter(str(tmp_path / "model_int8.tflite"))
  kinds = {detail["dtype"] for detail in interpreter.get_tensor_details()}
  assert kinds == {np.int8, np.int32}  # biases have 32 bits
  content = json.loads((tmp_path / "export.json").read_text())
  assert not {"tflite", "onnx"} & {*content["inputs"]}
  (pixels,) = content["tflite_int8"]["inputs"].values()
  assert (pixels["dtype"], pixels["scale"], pixels["zero_point"]) == ("int8", 1, -128)
  probabilities = content["tflite_int8"]["outputs"]["probs"]
  assert (probabilities["scale"], probabilities["zero_point"]) == (1 / 256, -128)


def test_a_format_that_does_not_round_is_refused(undisturbed, programs, tmp_path):
  done = programs.run(
    *("helpers_small_network", "mnv2_hpu.cli.export", "--formats=tflite"),
    *(f"--model_dir={undisturbed}", f"--export_dir={tmp_path}"),
  )
  assert done.returncode == 1
  assert "'tflite', which is none of a quantization-aware run" in done.output


def test_the_types_of_int8_without_int8_are_refused(float_run, programs, tmp_path):
  done = programs.run(
    *("helpers_small_network", "mnv2_hpu.cli.export", "--inference_type=int8"),
    *(f"--model_dir={float_run}", f"--export_dir={tmp_path}"),
  )
  assert done.returncode == 1
  assert "the formats are saved_model, tflite. Add --formats=tflite_int8" in done.output


@pytest.mark.parametrize(
  ("start", "model_dir", "text"),
  [
    ("undisturbed", "new", "which is quantization-aware itself. Give the float run"),
    ("float_run", "float_run", "the folder of a float run. Give quantization-aware"),
  ],
)
def test_a_run_of_the_other_kind_is_refused(
  request, start, model_dir, text, digits_records, programs, tmp_path
):
  folder = tmp_path if model_dir == "new" else request.getfixturevalue(model_dir)
  args = arguments(request.getfixturevalue(start), digits_records, folder)
  done = programs.run(*helpers_short_runs.DRIVER, *args)
  assert done.returncode == 1
  assert text in done.output


def test_a_start_of_another_task_is_refused(float_run, programs, tmp_path):
  done = programs.run(
    *(*helpers_short_runs.DRIVER, "--experiment=mobilenet_v2_ssdlite_qat"),
    *("--gin_file=gin/qat/ssdlite.gin", "--mode=train", f"--model_dir={tmp_path}"),
    *("--gin_params=DATA_DIR = ''", f"--gin_params=START = '{float_run}'"),
  )
  assert done.returncode == 1
  assert "params.yaml is not that of a run of this task" in done.output
