import pytest
import tensorflow as tf
from official.core import config_definitions as cfg
from official.modeling.optimization.configs import optimizer_config

from mnv2_hpu.evaluation import metrics
from mnv2_hpu.reporting import curves
from mnv2_hpu.serving import check_result

STEP = 20


@pytest.fixture
def model_dir(tmp_path):
  writer = tf.summary.create_file_writer(str(tmp_path / "validation"))
  with writer.as_default():
    for step, top1 in ((10, 0.5), (STEP, 0.75)):
      tf.summary.scalar("accuracy", top1, step)
      tf.summary.scalar("top_5_accuracy", 1.0, step)
      tf.summary.scalar("raw_accuracy", top1 - 0.25, step)
  writer.close()
  return str(tmp_path)


def params(ema=True, validation_steps=-1):
  experiment = cfg.ExperimentConfig()
  experiment.trainer.validation_steps = validation_steps
  if ema:
    experiment.trainer.optimizer_config.ema = optimizer_config.EMAConfig()
  return experiment


@pytest.mark.parametrize(
  ("ema", "weights", "step", "expected"),
  [
    (True, "ema", STEP, {"top1": 0.75, "top5": 1.0}),
    (True, "raw", STEP, {"top1": 0.5}),  # logged as raw_accuracy
    (False, "raw", STEP, {"top1": 0.75, "top5": 1.0}),  # there are no others
    (True, "ema", 15, {}),  # a checkpoint between two evaluations
    (True, "ema", None, {}),
  ],
)
def test_export_is_compared_with_the_evaluation_of_its_weights(
  model_dir, ema, weights, step, expected
):
  found = metrics.logged_accuracies(model_dir, params(ema), step, weights)
  assert found == expected


def test_evaluation_of_a_part_of_the_images_is_not_compared(model_dir):
  some = params(validation_steps=3)
  assert metrics.logged_accuracies(model_dir, some, STEP, "ema") == {}


def test_run_without_evaluations_has_nothing_to_compare(tmp_path):
  assert metrics.logged_accuracies(str(tmp_path), params(), STEP, "ema") == {}


def test_folder_without_event_files_has_nothing_to_compare(tmp_path):
  (tmp_path / "validation").mkdir()
  assert metrics.logged_accuracies(str(tmp_path), params(), STEP, "ema") == {}


@pytest.mark.parametrize(("num_classes", "has_top5"), [(5, False), (6, True)])
def test_five_classes_have_no_top_5(num_classes, has_top5):
  logged = curves.Curves({}, {"accuracy": [(8, 0.5)], "top_5_accuracy": [(8, 1.0)]})
  checked = check_result.Verification("val-*", 4, {"tflite": 2}, {}, 0.0, {})
  exported = {
    "global_step": 8,
    "weights": "ema",
    "versions": {},
    "num_classes": num_classes,
  }
  values = metrics.run_metrics(logged, exported, checked)
  assert (values["top1"], values["top1_tflite"]) == (0.5, 0.5)
  assert ("top5" in values) == has_top5
