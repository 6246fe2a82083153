"""The detection task: COCO's metrics, the set's loss, padding, a start, two seeds."""

import gin
import numpy as np
import pytest
import tensorflow as tf
from helpers_detection_records import detection_record, validate, write_records
from official.core import exp_factory, task_factory

import mnv2_hpu
from mnv2_hpu.configs import object_detection as exp_cfg
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import ssdlite
from mnv2_hpu.tasks import coco_metrics

mnv2_hpu.register()


def _task(folder, **recipe):
  values = {
    "num_classes": 2,
    "num_train_examples": 8,
    "image_size": 48,
    "width_multiplier": 0.35,
    "batch_size": 4,
    "eval_batch_size": 4,
    **recipe,
  }
  recipe = exp_cfg.DetectionRecipe(data_dir=str(folder), **values)
  return task_factory.get_task(exp_cfg.experiment(recipe).task)


def test_the_experiment_needs_no_data_to_build_cocos_network():
  gin.clear_config()
  config = exp_factory.get_exp_config("mobilenet_v2_ssdlite")
  model = task_factory.get_task(config.task).build_model()
  assert sum(v.shape.num_elements() for v in model.trainable_variables) == 4_500_543


def test_a_backbone_without_the_endpoints_is_one_error(tmp_path):
  task = _task(tmp_path)
  backbone = task.task_config.model.backbone.get()
  backbone.output_intermediate_endpoints = False
  with pytest.raises(UserError, match="output_intermediate_endpoints=True"):
    task.build_model()


def _image(boxes, classes, source_id=1, height=100, width=200):
  count = len(boxes)
  return {
    "source_id": np.array([source_id]),
    "height": np.array([height]),
    "width": np.array([width]),
    "num_detections": np.array([count]),
    "boxes": np.array([boxes], np.float32).reshape(1, count, 4),
    "classes": np.array([classes], np.int32).reshape(1, count),
    "areas": np.array([[(b[2] - b[0]) * (b[3] - b[1]) for b in boxes]], np.float32),
    "is_crowds": np.zeros([1, count], np.int32),
  }


def _found(boxes, classes, scores, source_id=1):
  return {
    "source_id": np.array([source_id]),
    "detection_boxes": np.array([boxes], np.float32).reshape(1, len(boxes), 4),
    "detection_classes": np.array([classes], np.int32).reshape(1, len(boxes)),
    "detection_scores": np.array([scores], np.float32).reshape(1, len(boxes)),
  }


BOX, OTHER = [10, 20, 60, 90], [50, 120, 90, 180]


def test_average_precision_is_that_computed_by_hand():
  """Of two boxes one is found, after a wrong one: precision 1/2 up to recall 1/2."""
  truth = _image([BOX, OTHER], [1, 1])
  found = _found([[0, 0, 9, 9], BOX], [1, 1], [0.9, 0.8])
  metrics = coco_metrics.metrics(coco_metrics.evaluate(truth, found))
  # COCO takes 101 recalls, 51 of which are at most 1/2.
  assert metrics["AP50"] == pytest.approx(0.5 * 51 / 101, abs=1e-6)
  assert metrics["AP"] == pytest.approx(0.5 * 51 / 101, abs=1e-6)


def test_a_perfect_detector_has_an_average_precision_of_one():
  evaluation = coco_metrics.evaluate(
    _image([BOX, OTHER], [1, 2]), _found([BOX, OTHER], [1, 2], [0.6, 0.7])
  )
  assert coco_metrics.metrics(evaluation)["AP"] == pytest.approx(1)
  for precision in coco_metrics.per_class(evaluation).values():
    assert precision == (pytest.approx(1), pytest.approx(1))
  assert coco_metrics.best_threshold(evaluation) == (pytest.approx(0.6), 1.0)


def test_a_detector_that_finds_nothing_has_none():
  evaluation = coco_metrics.evaluate(_image([BOX], [1]), _found([BOX], [1], [0.0]))
  assert coco_metrics.metrics(evaluation)["AP"] == 0
  (missed,) = coco_metrics.boxes_by_image(evaluation, 0.5)[1]
  assert missed.score is None
  assert missed.corners == tuple(BOX)


def test_hits_misses_and_false_detections_are_told_apart():
  evaluation = coco_metrics.evaluate(
    _image([BOX, OTHER], [1, 2]), _found([BOX, OTHER], [1, 1], [0.9, 0.8])
  )
  boxes = coco_metrics.boxes_by_image(evaluation, 0.5)[1]
  assert [(box.label, box.is_hit) for box in boxes if box.score] == [
    (1, True),
    (1, False),
  ]
  assert [box.label for box in boxes if box.score is None] == [2]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
  """Six images of one bright box each, of two classes by its shape."""
  folder = tmp_path_factory.mktemp("records")
  wide, tall = [0.3, 0.1, 0.7, 0.9], [0.05, 0.35, 0.95, 0.6]
  content = [
    detection_record(str(i + 1), [(wide, tall)[i % 2]], [1 + i % 2]) for i in range(6)
  ]
  for split in ("train", "validation"):
    write_records(folder / f"{split}-00000-of-00001", content)
  return folder


def test_the_loss_of_a_set_does_not_depend_on_the_batch(records):
  """Six images are two batches of four, the last half padding, or one of six."""
  counts = {"num_train_examples": 6, "num_validation_examples": 6}
  task = _task(records, **counts)
  model = task.build_model()
  losses, metrics = validate(task, model)
  whole = _task(records, eval_batch_size=6, **counts)
  whole_losses, whole_metrics = validate(whole, model)
  assert losses == pytest.approx(whole_losses, rel=1e-5)
  assert metrics["AP"] == pytest.approx(whole_metrics["AP"], abs=1e-6)


def test_a_start_from_a_classification_run_takes_its_backbone(tmp_path, capsys):
  source = _task(tmp_path).build_model().backbone
  for variable in source.variables:
    variable.assign(variable + 0.5)
  path = tf.train.Checkpoint(backbone=source).save(str(tmp_path / "ckpt"))
  task = _task(tmp_path, init_checkpoint=path)
  model = task.build_model()
  task.initialize(model)
  for variable, expected in zip(
    model.backbone.variables, source.variables, strict=True
  ):
    np.testing.assert_array_equal(variable, expected)
  assert "starts from the weights of" in capsys.readouterr().out


def test_a_start_of_other_classes_keeps_all_but_the_class_predictors(tmp_path, capsys):
  source = _task(tmp_path, num_classes=5).build_model()
  path = tf.train.Checkpoint(model=source, backbone=source.backbone).save(
    str(tmp_path / "ckpt")
  )
  task = _task(tmp_path, init_checkpoint=path, init_checkpoint_modules="fitting")
  model = task.build_model()
  task.initialize(model)
  ours, theirs = ({v.name: v for v in one.variables} for one in (model, source))
  name = "BoxPredictor_2/BoxEncodingPredictor/kernel:0"
  np.testing.assert_array_equal(ours[name], theirs[name])
  assert "12 variables above the backbone are initialized" in capsys.readouterr().out


def test_initial_weights_follow_from_the_seed(tmp_path):
  first, second, other = (
    _task(tmp_path, seed=seed).build_model().get_weights() for seed in (1, 1, 2)
  )
  assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
  assert not np.array_equal(first[0], other[0])


def test_anchors_are_those_of_the_networks_input(tmp_path):
  task = _task(tmp_path)
  assert np.array_equal(task.anchors, ssdlite.anchors(48, 48))
