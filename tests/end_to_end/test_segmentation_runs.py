"""DeepLab through Model Garden's driver and all commands; killed; on two ranks."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import helpers_programs
import helpers_rank_runs
import helpers_segmentation_records
import helpers_short_runs
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

EXPERIMENT = "mobilenet_v2_deeplabv3plus"
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
  return helpers_short_runs.arguments(
    EXPERIMENT,
    "gin/deeplabv3plus_voc.gin",
    records,
    model_dir,
    mode=mode,
    settings={**SETTINGS, **changed},
  )


@pytest.fixture(scope="module")
def undisturbed(records, programs, tmp_path_factory):
  model_dir = tmp_path_factory.mktemp("undisturbed")
  helpers_short_runs.run(programs, arguments(records, model_dir))
  return model_dir


def test_a_run_is_evaluated_by_its_mean_iou(undisturbed):
  found = helpers_short_runs.validation(undisturbed)
  assert [step for step, _ in found["mean_iou"]] == [4, 8]
  assert {"validation_loss", "iou/0", "iou/1", "iou/2"} <= found.keys()
  best = json.loads((undisturbed / "best_ckpt" / "info.json").read_text())
  assert best["mean_iou"] == pytest.approx(max(v for _, v in found["mean_iou"]))


def test_a_killed_run_that_resumes_is_the_undisturbed_one(
  undisturbed, records, programs, tmp_path
):
  """Crops, scales, flips and dropout are all in these steps."""
  args = arguments(records, tmp_path)
  helpers_short_runs.kill(programs, "stepping:6", args)
  helpers_short_runs.run(programs, args)
  helpers_short_runs.assert_same(tmp_path, undisturbed)


@pytest.mark.long("two processes that each import TensorFlow and trace, on one core")
def test_two_ranks_count_each_image_once(records, programs, tmp_path):
  """Their evaluation is that of one process, of which the last batch is padded.

  One strategy is enough: that both gather alike, `test_rank_proof.py` shows.
  """
  launcher = [sys.executable, "-m", "mnv2_hpu.cli.launch", "--np=2", "--"]
  strategy = "multi_worker_mirrored"
  if helpers_rank_runs.HAS_HOROVOD:
    launcher = [pathlib.Path(sys.executable).with_name("horovodrun"), "-np", "2"]
    strategy = "horovod"
  bindings = {
    "batch_size": BATCH // 2,
    "distribution_strategy": repr(strategy),
    "use_sync_bn": True,
  }
  done = subprocess.run(
    [
      *launcher,
      *(sys.executable, "-W", "ignore", "-m", *helpers_short_runs.DRIVER),
      *arguments(records, tmp_path, **bindings),
    ],
    cwd=helpers_programs.ROOT,
    env={**os.environ, "PYTHONPATH": str(helpers_programs.TESTS)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
  of_ranks = helpers_short_runs.validation(tmp_path)
  helpers_short_runs.run(programs, arguments(records, tmp_path, "eval"))
  again = helpers_short_runs.validation(tmp_path)
  for name in ("mean_iou", "iou/0", "validation_loss"):
    assert [step for step, _ in of_ranks[name]] == [4, 8]
    assert again[name][-1] == pytest.approx(of_ranks[name][-1], rel=1e-3), name


@pytest.fixture(scope="module", name="exported")
def fixture_exported(undisturbed, programs, tmp_path_factory):
  """The folder of an export, checked in a fresh process, and what was printed."""
  folder = tmp_path_factory.mktemp("export")
  done = programs.run(
    "helpers_small_network",
    "mnv2_hpu.cli.export",
    f"--model_dir={undisturbed}",
    f"--export_dir={folder}",
    "--formats=saved_model,tflite",
  )
  assert done.returncode == 0, done.output[-3000:]
  return folder, done.output


def test_an_export_is_checked_by_its_mean_iou(exported):
  folder, output = exported
  assert f"on {VALIDATION} images: mean IoU" in output
  checked = json.loads((folder / "check.json").read_text())
  expected = checked["checkpoint"]["checkpoint"]["mIoU"]
  for name in ("saved_model", "tflite"):
    assert checked["metrics"][name]["mIoU"] == pytest.approx(expected, abs=5e-3)


def test_an_evaluation_is_that_of_the_training(undisturbed, programs, tmp_path):
  done = programs.run(
    "helpers_small_network",
    "mnv2_hpu.cli.evaluate",
    f"--model_dir={undisturbed}",
    f"--output_dir={tmp_path}",
  )
  assert done.returncode == 0, done.output[-3000:]
  assert "IoU by class, the lowest first" in done.output
  found = json.loads((tmp_path / "metrics.json").read_text())
  logged = helpers_short_runs.validation(undisturbed)
  assert found["num_images"] == VALIDATION
  assert found["train_steps"] == 8
  for name, tag in {"miou": "mean_iou", "loss": "validation_loss"}.items():
    assert found[name] == pytest.approx(logged[tag][-1][1], rel=1e-5)
  assert (tmp_path / "per_class.csv").exists()
  assert "data:image/jpeg" in (tmp_path / "report.html").read_text()


def test_a_report_has_the_curves_and_the_formats(
  undisturbed, exported, programs, tmp_path
):
  done = programs.run(
    "helpers_small_network",
    "mnv2_hpu.cli.report",
    f"--model_dir={undisturbed}",
    f"--export_dir={exported[0]}",
    f"--output_dir={tmp_path}",
  )
  assert done.returncode == 0, done.output[-3000:]
  found = json.loads((tmp_path / "metrics.json").read_text())
  assert found["miou"] == pytest.approx(
    helpers_short_runs.validation(undisturbed)["mean_iou"][-1][1]
  )
  assert {"miou_saved_model", "miou_tflite", "num_images"} <= found.keys()
  page = (tmp_path / "report.html").read_text()
  for text in ("Learning curves", "Mean IoU by training step", "Reloaded tflite"):
    assert text in page


def test_a_sidecar_keeps_the_best_mean_iou(undisturbed, programs, tmp_path):
  run = tmp_path / "run"
  shutil.copytree(undisturbed, run)
  done = programs.run(
    "helpers_small_network",
    "mnv2_hpu.cli.evaluate",
    f"--model_dir={run}",
    "--continuous",
  )
  assert done.returncode == 0, done.output[-3000:]
  lines = (run / "evaluations.jsonl").read_text().splitlines()
  last = json.loads(lines[-1])
  logged = helpers_short_runs.validation(undisturbed)["mean_iou"][-1]
  assert (last["step"], last["metrics"]["mean_iou"]) == pytest.approx(logged)
  best = max(json.loads(line)["metrics"]["mean_iou"] for line in lines)
  info = json.loads((run / "best" / "info.json").read_text())
  assert info["mean_iou"] == pytest.approx(best)


def test_images_of_all_kinds_are_predicted(undisturbed, exported, programs, tmp_path):
  """By the run and by its export alike; what is no image is said."""
  photos = tmp_path / "photos"
  photos.mkdir()
  scene, _ = helpers_segmentation_records.scene(5, (47, 61))
  image = Image.fromarray(scene)
  for name, kind in (("rgb", image), ("gray", image.convert("L"))):
    kind.save(photos / f"{name}.png")
  image.convert("RGBA").save(photos / "rgba.png")
  image.resize((200, 31)).save(photos / "large.jpg")
  image.resize((1, 1)).save(photos / "one.bmp")
  (photos / "text.png").write_text("no image")
  masks = {}
  for name, model in (("run", undisturbed), ("export", exported[0])):
    done = programs.run(
      "helpers_small_network",
      "mnv2_hpu.cli.predict",
      f"--model={model}",
      "--format=jsonl",
      f"--output_dir={tmp_path / name}",
      f"--contact_sheet={tmp_path / name}.png",
      photos,
    )
    assert done.returncode == 1, done.output[-3000:]
    rows = [json.loads(x) for x in done.output.splitlines() if x.startswith("{")]
    by_name = {os.path.basename(row["file"]): row for row in rows}
    assert "error" in by_name["text.png"]
    assert (by_name["large.jpg"]["height"], by_name["large.jpg"]["width"]) == (31, 200)
    assert sum(c["pixels"] for c in by_name["gray.png"]["classes"]) == 47 * 61
    masks[name] = {
      path.name: np.asarray(Image.open(path))
      for path in (tmp_path / name / "masks").iterdir()
    }
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
  assert masks["run"].keys() == {
    f"{n}.png" for n in ("rgb", "gray", "rgba", "large", "one")
  }
  np.testing.assert_array_equal(masks["run"]["rgb.png"], masks["run"]["rgba.png"])
  for name, mask in masks["run"].items():
    assert (mask == masks["export"][name]).mean() > 0.97
