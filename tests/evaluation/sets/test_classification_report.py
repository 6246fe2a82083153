"""The table, metrics.json, per_class.csv and the page of an evaluation."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mnv2_hpu.checkpoints.restore import RestoredCheckpoint
from mnv2_hpu.evaluation.sets import (
  classification,
  classification_report,
  report_files,
)
from mnv2_hpu.reporting.plots import Sample

NAMES = ["cat", "dog, wild", "<i>eel</i>"]


@pytest.fixture
def result():
  """Of 7 images of three classes 4 right; none of the last class."""
  logits = np.log(
    np.array([[0.8, 0.1, 0.1]] * 3 + [[0.1, 0.7, 0.2]] * 2 + [[0.2, 0.2, 0.6]] * 2)
  )
  labels = np.array([0, 0, 1, 1, 1, 0, 1])
  counts = classification.Counts(3)
  images = np.zeros([7, 4, 4, 3])
  counts.add(classification.Batch(images, labels, logits, np.full(7, 0.5)))
  restored = RestoredCheckpoint("run/ckpt-1200", 1200, "raw")
  mistakes = [Sample(np.zeros([4, 4, 3], np.uint8), 1, 0, 0.8)]
  return classification.Result(restored, "data/validation-*", counts, 123.4, mistakes)


def test_table_has_the_metrics_and_the_worst_class_first(result):
  lines = classification_report.table(result, NAMES).splitlines()

  assert lines[0] == "step 1,200, raw weights of run/ckpt-1200"
  assert lines[1] == "7 images of data/validation-*, 123 images/s"
  assert f"  accuracy             {4 / 7:.5f}" in lines
  assert not any("top_5" in line for line in lines)
  assert lines[-2:] == ["  dog, wild   50.00%  of 4", "  cat         66.67%  of 3"]


def test_files_say_the_same(result, tmp_path):
  content = classification_report.content(result, NAMES)
  written = report_files.write(result, content, str(tmp_path / "new" / "folder"))

  metrics = json.loads(Path(written[0]).read_text())
  assert metrics["top1"] == 4 / 7
  assert metrics["loss"] == 0.5
  assert metrics["num_examples"] == 7
  assert (metrics["weights"], metrics["train_steps"]) == ("raw", 1200)
  assert "top5" not in metrics
  with open(written[1], newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["name"] for row in rows] == NAMES
  assert rows[0]["accuracy"] == "0.6667"
  assert (rows[1]["confused_with"], rows[1]["times"]) == ("cat", "1")
  assert (rows[2]["images"], rows[2]["accuracy"]) == ("0", "")
  page = Path(written[2]).read_text()
  assert "57.14%" in page
  assert "Calibration" in page
  assert "<h2>The surest mistakes</h2>" in page
  assert "Learning curves" not in page
  assert "<i>eel" not in page
  assert 'class="wrong"' in page
