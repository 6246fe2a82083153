"""DeepLab through Model Garden's driver: killed and resumed, and on two ranks."""

import json
import os
import subprocess
import sys

import helpers_checkpoint_diff
import helpers_programs
import helpers_segmentation_records
import pytest

from mnv2_hpu.reporting import curves

pytestmark = pytest.mark.slow

EXPERIMENT = "mobilenet_v2_deeplabv3plus"
# With a network that is soon traced.
DRIVER = ("helpers_small_network", helpers_programs.STOCK_DRIVER)
TRAIN, VALIDATION, BATCH = 24, 7, 4
SETTINGS = {
  "aspp": "'none'",
  "batch_size": BATCH,
  "checkpoint_every_epochs": 2 * BATCH / TRAIN,
  "compute_dtype": "'bfloat16'",
  "ema_decay": 0.9,
  "eval_batch_size": 2,
  "eval_every_epochs": 4 * BATCH / TRAIN,
  "image_size": 65,
  "log_every_steps": 2,
  "num_classes": helpers_segmentation_records.NUM_CLASSES,
  "num_train_examples": TRAIN,
  "num_validation_examples": VALIDATION,
  "train_epochs": 8 * BATCH / TRAIN,
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
  folder = tmp_path_factory.mktemp("scenes")
  return helpers_segmentation_records.write_scenes(folder, TRAIN, VALIDATION)


def arguments(records, model_dir, mode="train_and_eval", **changed):
  settings = {**SETTINGS, **changed}
  return [
    f"--experiment={EXPERIMENT}",
    "--gin_file=gin/deeplabv3plus_voc.gin",
    f"--gin_params=DATA_DIR = '{records}'",
    *(f"--gin_params={EXPERIMENT}.{k} = {v}" for k, v in settings.items()),
    f"--mode={mode}",
    f"--model_dir={model_dir}",
  ]


@pytest.fixture(scope="module")
def undisturbed(records, programs, tmp_path_factory):
  model_dir = tmp_path_factory.mktemp("undisturbed")
  done = programs.run(*DRIVER, *arguments(records, model_dir))
  assert done.returncode == 0, done.output[-3000:]
  return model_dir


def validation(model_dir):
  """Curves of the evaluations, by metric."""
  return curves.read_scalars(str(model_dir / "validation"))


def test_a_run_is_evaluated_by_its_mean_iou(undisturbed):
  found = validation(undisturbed)
  assert [step for step, _ in found["mean_iou"]] == [4, 8]
  assert {"validation_loss", "iou/0", "iou/1", "iou/2"} <= found.keys()
  best = json.loads((undisturbed / "best_ckpt" / "info.json").read_text())
  assert best["mean_iou"] == pytest.approx(max(v for _, v in found["mean_iou"]))


@pytest.mark.parametrize("fault", ["stepping:6", "evaluating:8"])
def test_a_killed_run_that_resumes_is_the_undisturbed_one(
  fault, undisturbed, records, programs, tmp_path
):
  """Crops, scales, flips and dropout are all in these steps."""
  args = arguments(records, tmp_path)
  killed = programs.run("helpers_faulty_run", fault, *args)
  assert killed.returncode == -9, killed.output[-3000:]
  done = programs.run(*DRIVER, *args)
  assert done.returncode == 0, done.output[-3000:]
  for folder in (".", "best_ckpt"):
    ours, theirs = str(tmp_path / folder), str(undisturbed / folder)
    assert helpers_checkpoint_diff.differences(ours, theirs) == []
  assert validation(tmp_path) == validation(undisturbed)


@pytest.mark.long("two processes that each import TensorFlow and trace, on one core")
def test_two_ranks_count_each_image_once(records, programs, tmp_path):
  """Their evaluation is that of one process, of which the last batch is padded."""
  bindings = {
    "batch_size": BATCH // 2,
    "distribution_strategy": "'multi_worker_mirrored'",
    "use_sync_bn": True,
  }
  done = subprocess.run(
    [
      *(sys.executable, "-m", "mnv2_hpu.cli.launch", "--np=2", "--"),
      *(sys.executable, "-W", "ignore", "-m", *DRIVER),
      *arguments(records, tmp_path, **bindings),
    ],
    cwd=helpers_programs.ROOT,
    env={**os.environ, "PYTHONPATH": str(helpers_programs.TESTS)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
  of_ranks = validation(tmp_path)
  alone = programs.run(*DRIVER, *arguments(records, tmp_path, "eval"))
  assert alone.returncode == 0, alone.output[-3000:]
  again = validation(tmp_path)
  for name in ("mean_iou", "iou/0", "validation_loss"):
    assert [step for step, _ in of_ranks[name]] == [4, 8]
    assert again[name][-1] == pytest.approx(of_ranks[name][-1], rel=1e-3), name
