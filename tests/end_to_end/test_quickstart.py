"""The quickstart as `make quickstart` runs it, on all digits; takes minutes."""

import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from sklearn import datasets
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

pytestmark = [
  pytest.mark.quickstart,
  pytest.mark.long("the first test runs the whole quickstart"),
]

# A fifth of each class of the 1,797 digits, rounded: 36 + 36 + 35 + ...
HELD_OUT_BY_CLASS = np.round(np.bincount(datasets.load_digits().target) / 5)
HELD_OUT = int(HELD_OUT_BY_CLASS.sum())

# What the tests set for TensorFlow (conftest.py); a user's shell has none of it.
SETTINGS_OF_TESTS = (
  "TF_ENABLE_ONEDNN_OPTS",
  "TF_NUM_INTRAOP_THREADS",
  "TF_NUM_INTEROP_THREADS",
)


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("quickstart")
  start = time.monotonic()
  done = subprocess.run(
    [sys.executable, "-m", "mnv2_hpu.cli.quickstart", f"--output_dir={folder}"],
    env={k: v for k, v in os.environ.items() if k not in SETTINGS_OF_TESTS},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  print(done.stdout[-6000:])
  print(f"quickstart: {time.monotonic() - start:.0f} seconds")
  assert done.returncode == 0
  lines = done.stdout.splitlines()
  assert str(folder / "report.html") in lines[-1]
  assert len(lines) <= 60
  assert str(folder / "quickstart.log") in lines[0]
  progress = [line for line in lines if line.startswith("  train: ")]
  assert "remain" in progress[0]
  assert "(100%)" in progress[-1]
  return folder


@pytest.fixture(scope="module")
def metrics(output_dir):
  return json.loads((output_dir / "metrics.json").read_text())


def held_out(output_dir):
  """Returns the encoded images and labels of the validation records."""
  files = sorted(str(f) for f in (output_dir / "tfrecords").glob("validation-*"))
  features = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
  }
  records = [
    tf.io.parse_single_example(record, features)
    for record in tf.data.TFRecordDataset(files)
  ]
  images = tf.stack([record["image/encoded"] for record in records])
  labels = tf.stack([record["image/class/label"] for record in records])
  return images, labels


def test_accuracy_on_held_out_digits(metrics):
  assert metrics["num_examples"] == HELD_OUT
  assert metrics["weights"] == "ema"
  assert metrics["top1"] >= 0.975
  assert metrics["top1"] <= metrics["top5"] <= 1.0
  assert metrics["train_steps"] > 0


def test_exports_keep_the_accuracy(metrics):
  tolerance = 2 / HELD_OUT
  assert metrics["top1_saved_model"] == pytest.approx(metrics["top1"], abs=tolerance)
  assert metrics["top1_tflite"] == pytest.approx(metrics["top1"], abs=tolerance)


def test_report_is_one_file_with_its_images(output_dir):
  report = (output_dir / "report.html").read_text()

  assert "data:image/" in report or "<svg" in report
  assert 'src="http' not in report
  assert 'href="http' not in report.split("<body")[0]
  assert "confusion" in report.lower()


def test_records_hold_a_fifth_of_each_digit(output_dir):
  images, labels = held_out(output_dir)

  assert len(images) == HELD_OUT
  assert np.bincount(labels.numpy()).tolist() == HELD_OUT_BY_CLASS.tolist()


def test_tensorboard_shows_the_recipe_and_the_size_of_the_network(output_dir):
  events = event_accumulator.EventAccumulator(str(output_dir / "model" / "train"))
  events.Reload()
  content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
  data = plugin_data_pb2.HParamsPluginData.FromString(content)
  recipe = data.session_start_info.hparams
  assert recipe["task.train_data.global_batch_size"].number_value == 64
  assert recipe["task.model.backbone.type"].string_value == "mobilenet_v2"
  (parameters,) = events.Tensors("network/trainable_parameters")
  log = (output_dir / "quickstart.log").read_text()
  count = int(tf.make_ndarray(parameters.tensor_proto))
  assert f"{count:,} trainable parameters" in log


def test_the_log_has_what_the_screen_leaves_out(output_dir):
  log = (output_dir / "quickstart.log").read_text()
  assert log.count("\n$ python -m") == 4
  assert "trainable parameters" in log
  assert "running complete evaluation" in log


@pytest.mark.parametrize("model", ["saved_model", "model.tflite", "model"])
def test_what_it_leaves_predicts_image_files(output_dir, programs, model):
  sevens = output_dir / "images" / "validation" / "7"
  done = programs.run(
    "mnv2_hpu.cli.predict",
    f"--model={output_dir / model}",
    "--format=csv",
    str(sevens),
  )
  assert done.returncode == 0, done.output[-3000:]
  rows = [line.split(",") for line in done.output.splitlines() if ".png," in line]
  assert len(rows) == HELD_OUT_BY_CLASS[7]
  assert sum(row[1] == "7" for row in rows) >= len(rows) - 2


def test_evaluating_again_says_the_same_once_and_changes_nothing(
  output_dir, metrics, programs
):
  model_dir = output_dir / "model"
  before = {path: path.stat().st_mtime_ns for path in model_dir.rglob("*")}

  done = programs.run("mnv2_hpu.cli.evaluate", f"--model_dir={model_dir}")

  assert done.returncode == 0, done.output[-3000:]
  assert f"step {metrics['train_steps']:,}, EMA weights" in done.output
  (top1,) = re.findall(r"\baccuracy\W+([\d.]+)", done.output)
  assert float(top1) == pytest.approx(metrics["top1"], abs=2 / HELD_OUT)
  assert {path: path.stat().st_mtime_ns for path in model_dir.rglob("*")} == before
