"""The segmentation task: its network, its start, its prediction, its metrics."""

import pathlib
import subprocess
import sys

import helpers_deeplab
import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory
from official.vision.modeling import classification_model

import mnv2_hpu
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import multi_scale, stateless_dropout
from mnv2_hpu.modeling.mobilenet_v2 import MobileNetV2

mnv2_hpu.register()
SIZE = (49, 33)


def config_of(experiment="mobilenet_v2_deeplabv3", width=0.35, **overrides):
  config = exp_factory.get_exp_config(experiment).task
  config.override(
    {
      "model": {
        "input_size": [*SIZE, 3],
        "backbone": {"mobilenet_v2": {"width_multiplier": width}},
      }
    }
  )
  config.override(overrides)
  return config


def task_of(*arguments, **overrides):
  return task_factory.get_task(config_of(*arguments, **overrides))


@pytest.mark.parametrize(
  ("experiment", "form"),
  [("mobilenet_v2_deeplabv3", "v3_os16"), ("mobilenet_v2_deeplabv3plus", "plus_os16")],
)
def test_an_experiment_without_data_is_the_published_network(experiment, form):
  config = exp_factory.get_exp_config(experiment)
  model = task_factory.get_task(config.task).build_model()
  expected = helpers_deeplab.architecture()[form]
  assert model.count_params() == expected["all_params"]
  assert config.trainer.train_steps == 30_000
  images = helpers_deeplab.normalized_images(1, 1, 97, 129)  # another size
  logits = model(images, training=False)["logits"]
  assert logits.shape == ((1, 25, 33, 21) if "plus" in form else (1, 7, 9, 21))


@pytest.mark.parametrize(
  ("model", "form"),
  [
    ({"aspp": "ordinary"}, "v3_aspp_os16"),
    (
      {
        "aspp": "ordinary",
        "decoder": "ordinary",
        "backbone": {"mobilenet_v2": {"output_stride": 8}},
      },
      "plus_full_os16",
    ),
  ],
)
def test_every_form_is_a_choice_of_one_config(model, form):
  built = task_of(width=1.0, model=model).build_model()
  assert built.count_params() == helpers_deeplab.architecture()[form]["all_params"]


def test_it_starts_from_a_classifier(tmp_path, capsys):
  """A classifier's backbone ends in a convolution that the segmenter has not."""
  backbone = MobileNetV2(0.35)
  classifier = classification_model.ClassificationModel(backbone, 5)
  saved = tf.train.Checkpoint(model=classifier, backbone=backbone)
  path = saved.save(str(tmp_path / "ckpt"))
  task = task_of(init_checkpoint=path)
  model = task.build_model()
  task.initialize(model)
  assert "backbone" in capsys.readouterr().out
  for layer in model.backbone.layers[1:]:  # the first is the input
    for mine, theirs in zip(
      layer.get_weights(), backbone.get_layer(layer.name).get_weights(), strict=True
    ):
      np.testing.assert_array_equal(mine, theirs)


def test_dropout_follows_from_the_seed_and_the_step():
  model = task_of(model={"dropout_rate": 0.5}).build_model()
  images = helpers_deeplab.normalized_images(1, 2, *SIZE)
  weights = model.get_weights()

  def at(step):
    model.set_weights(weights)
    with stateless_dropout.dropout_step(step):
      return model(images, training=True)["logits"].numpy()

  np.testing.assert_array_equal(at(3), at(3))
  assert np.abs(at(3) - at(4)).max() > 0


def test_prediction_averages_over_scales_where_it_is_asked_to():
  images = tf.constant(helpers_deeplab.normalized_images(1, 2, *SIZE))
  task = task_of(evaluation={"scales": [0.5, 1.0], "add_flipped_images": True})
  model = task.build_model()
  expected = multi_scale.mean_probabilities(model, images, [0.5, 1.0], flip=True)
  found = task.predict(images, model)
  assert found.shape == (2, *SIZE)
  np.testing.assert_array_equal(found, np.argmax(expected, axis=-1))


def test_an_evaluation_counts_pixels_of_the_masks_alone():
  task = task_of(model={"num_classes": 3})
  model = task.build_model()
  metrics = task.build_metrics(training=False)
  images = tf.constant(helpers_deeplab.normalized_images(1, 2, *SIZE))
  predicted = task.predict(images, model).numpy()
  masks = np.where(np.arange(SIZE[1]) < 20, predicted, 255)[..., np.newaxis]
  labels = {"masks": tf.constant(masks.astype(np.uint8))}
  task.validation_step((images, labels), model, metrics)
  logs = {metric.name: float(metric.result()) for metric in metrics}
  assert logs["mean_iou"] == 1.0
  assert task.aggregate_logs(None, {}) is not None
  ious = task.reduce_aggregated_logs(True)
  assert set(ious.values()) == {1.0}
  assert ious.keys() == {f"iou/{c}" for c in np.unique(masks) if c != 255}
  for metric in metrics:
    metric.reset_state()
  assert task.reduce_aggregated_logs(True) == {}


def test_an_evaluation_runs_the_network_once():
  task = task_of(model={"num_classes": 3})
  model = task.build_model()
  step = tf.function(
    lambda images, masks: task.validation_step((images, {"masks": masks}), model)
  )
  graph = step.get_concrete_function(
    tf.TensorSpec([2, *SIZE, 3], tf.float32), tf.TensorSpec([2, *SIZE, 1], tf.uint8)
  ).graph
  computed = [op for op in graph.get_operations() if "Conv" in op.type]
  kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
  assert len(computed) == sum(isinstance(x, kinds) for x in model.submodules)


def test_weights_of_other_classes_are_refused():
  task = task_of(losses={"class_weights": [1.0, 2.0]})
  with pytest.raises(UserError, match="class_weights has 2 numbers"):
    task.check_inputs(train=True, evaluate=False)


def test_bfloat16_trains_in_one_trace():
  before = keras.mixed_precision.global_policy()
  keras.mixed_precision.set_global_policy("mixed_bfloat16")
  try:
    task = task_of("mobilenet_v2_deeplabv3plus", model={"num_classes": 3})
    model = task.build_model()
  finally:
    keras.mixed_precision.set_global_policy(before)
  optimizer = keras.optimizers.legacy.SGD(0.01, momentum=0.9)
  optimizer._create_all_weights(model.trainable_variables)
  traces = []

  @tf.function
  def step(images, masks):
    traces.append(images.shape)
    return task.train_step((images, {"masks": masks}), model, optimizer)

  losses = []
  for _ in range(3):
    images = tf.constant(helpers_deeplab.normalized_images(1, 2, *SIZE))
    masks = tf.constant(helpers_deeplab.label_maps(1, 2, *SIZE) % 3)
    losses.append(float(step(images, masks)[task.loss]))
  assert len(traces) == 1
  assert losses[-1] < losses[0]
  assert {v.dtype for v in model.variables} == {tf.float32}


@pytest.mark.parametrize("ramp_steps", [0, 4])
def test_training_on_hard_pixels_follows_the_step(ramp_steps):
  losses = {"hard_pixel_share": 0.5, "hard_pixel_ramp_steps": ramp_steps}
  task = task_of(losses=losses)
  logits = tf.constant(helpers_deeplab.logits(1, 1, 4, 3))
  labels = {"masks": tf.constant(helpers_deeplab.label_maps(2, 1, *SIZE))}
  found = []
  for step in (0, 4):
    task._step = tf.constant(step)
    found.append(float(task.build_losses(labels, {"logits": logits})))
  assert (found[1] > found[0]) == (ramp_steps > 0)


@pytest.mark.slow
def test_two_replicas():
  """Runs segmentation_replica_cases.py, whose two CPUs need a process of their own."""
  cases = pathlib.Path(__file__).with_name("segmentation_replica_cases.py")
  done = subprocess.run(
    [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert "1 passed" in done.stdout
