"""Counts over a set of masks, what is kept of it, and what is written."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

from mnv2_hpu.checkpoints.restore import RestoredCheckpoint
from mnv2_hpu.evaluation.sets import report_files, segmentation, segmentation_report

NAMES = ["ground", "cat", "<i>eel</i>", "owl"]
IGNORED = 255


def examples(number=40, size=12):
  """Images of 8 x 10 pixels, padded; predictions that are the worse the later."""
  random = np.random.default_rng(0)
  for i in range(number):
    image = np.zeros([size, size, 3], np.float32)
    image[:8, :10] = random.integers(0, 256, [8, 10, 3]) * (2 / 255) - 1
    truth = np.full([size, size], IGNORED, np.uint8)
    truth[:8, :10] = random.integers(0, 3, [8, 10])
    truth[0, 0] = IGNORED
    wrong = random.uniform(size=[size, size]) < i / number
    prediction = np.where(wrong, random.integers(0, 3, [size, size]), truth % 3)
    yield image, truth, prediction


@pytest.fixture(name="counts")
def fixture_counts():
  counts = segmentation.Counts(len(NAMES), IGNORED)
  for example in examples():
    counts.add(*example)
  return counts


def test_pixels_are_those_of_scikit_learn(counts):
  truths, predictions = (
    np.concatenate([e[k].ravel() for e in examples()]) for k in (1, 2)
  )
  valid = truths != IGNORED
  np.testing.assert_array_equal(
    counts.confusion,
    metrics.confusion_matrix(truths[valid], predictions[valid], labels=range(4)),
  )


def test_the_worst_images_are_kept_without_their_padding(counts):
  ious = []
  for _, truth, prediction in examples():
    valid = truth != IGNORED
    ious.append(metrics.jaccard_score(truth[valid], prediction[valid], average="macro"))
  kept = counts.worst()
  assert len(kept) == segmentation.MAX_IMAGES
  np.testing.assert_allclose(
    [k.iou for k in kept], np.sort(ious)[: len(kept)], rtol=1e-9
  )
  image, truth, prediction = list(examples())[int(np.argmin(ious))]
  worst = kept[0]
  pixels = np.round((image[:8, :10] + 1) * 127.5)
  np.testing.assert_array_equal(worst.image, pixels)
  np.testing.assert_array_equal(worst.truth, truth[:8, :10])
  np.testing.assert_array_equal(worst.prediction, prediction[:8, :10])


def test_padding_examples_count_nothing():
  counts = segmentation.Counts(3, IGNORED)
  padding = np.full([4, 4], IGNORED, np.uint8)
  counts.add(np.zeros([4, 4, 3], np.float32), padding, np.zeros([4, 4], np.int32))
  assert not counts.confusion.any()
  assert counts.worst() == []


@pytest.fixture(name="result")
def fixture_result(counts):
  return segmentation.SegmentationResult(
    RestoredCheckpoint("run/ckpt-1200", 1200, "ema"),
    "data/validation-*",
    40,
    12.3,
    counts.confusion,
    0.75,
    IGNORED,
    counts.worst(),
  )


def test_the_table_has_the_metrics_and_the_worst_class_first(result):
  lines = segmentation_report.table(result, NAMES).splitlines()
  assert lines[0] == "step 1,200, EMA weights of run/ckpt-1200"
  assert lines[2].split() == ["mean_iou", f"{result.metrics()['mean_iou']:.5f}"]
  ious = [float(line.split("%")[0].split()[-1]) for line in lines[-3:]]
  assert ious == sorted(ious)
  assert not any("owl" in line for line in lines)  # no mask has it


def test_the_files_say_the_same(result, tmp_path):
  content = segmentation_report.content(result, NAMES)
  written = report_files.write(result, content, str(tmp_path / "new"))
  values = json.loads(Path(written[0]).read_text())
  confusion = result.confusion
  union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
  ious = confusion.diagonal()[:3] / union[:3]
  assert values["miou"] == pytest.approx(ious.mean())
  assert values["pixel_accuracy"] == np.trace(confusion) / confusion.sum()
  assert (values["num_images"], values["loss"]) == (40, 0.75)
  assert (values["weights"], values["train_steps"]) == ("ema", 1200)
  with open(written[1], newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["name"] for row in rows] == NAMES
  assert [float(row["IoU"]) for row in rows[:3]] == pytest.approx(ious, abs=1e-5)
  assert (rows[3]["pixels"], rows[3]["IoU"]) == ("0", "")
  page = Path(written[2]).read_text()
  assert len(re.findall("data:image/jpeg;base64", page)) == segmentation.MAX_IMAGES
  assert len(page) < 2_000_000
  assert "<i>eel" not in page
  assert f"{values['miou']:.2%}" in page
