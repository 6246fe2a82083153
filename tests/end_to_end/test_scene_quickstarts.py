"""The quickstarts of detection and segmentation, after a few steps on a few scenes."""

import json

import helpers_few_scenes
import pytest

from mnv2_hpu import quickstart

pytestmark = [
  pytest.mark.quickstart,
  pytest.mark.slow,
  pytest.mark.long("five programs, each with TensorFlow"),
]


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_each_step_leaves_what_the_next_one_and_the_user_need(task, programs, tmp_path):
  done = programs.run(
    "helpers_few_scenes",
    f"--task={task}",
    f"--output_dir={tmp_path}",
    "--train_epochs=0.5",
  )
  assert done.returncode == 0, done.output[-3000:]
  metrics = json.loads((tmp_path / "metrics.json").read_text())
  assert metrics["train_steps"] == 4
  assert metrics["num_images"] == helpers_few_scenes.VALIDATION
  rows = quickstart.QUICKSTARTS[task].rows.values()
  assert all(0 <= metrics[name] <= 1 for name in rows)
  report = (tmp_path / "report.html").read_text()
  assert "Learning curves" in report
  assert 'src="http' not in report
  for name in ("saved_model/saved_model.pb", "model.tflite", "export.json"):
    assert (tmp_path / name).exists()
  assert str(tmp_path / "report.html") in done.output.splitlines()[-1]
