"""The auxiliary classifier of a classification model, and its loss in the task."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from official.core import task_factory
from official.vision.configs import backbones as upstream_backbones
from official.vision.configs import common

import mnv2_hpu
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import backbones
from mnv2_hpu.configs import image_classification as exp_cfg
from mnv2_hpu.errors import UserError

mnv2_hpu.register()

pytestmark = pytest.mark.usefixtures("small_network")

IMAGES = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
LABELS = tf.constant([0, 1, 2, 1])
NETWORK = backbones.PNASNet(
  stem="cifar", num_cells=3, num_conv_filters=4, drop_path_keep_prob=0.6
)


def task(weight, backbone="pnasnet", config=NETWORK, norm_epsilon=None):
  model = exp_cfg.ImageClassificationModel(
    num_classes=3,
    input_size=[32, 32, 3],
    dropout_rate=0.0,
    auxiliary_loss_weight=weight,
    backbone=upstream_backbones.Backbone(type=backbone, **{backbone: config}),
    norm_activation=common.NormActivation(
      activation="relu", norm_momentum=0.9, norm_epsilon=norm_epsilon
    ),
  )
  config = exp_cfg.ImageClassificationTask(model=model)
  config.losses.one_hot = True
  config.losses.label_smoothing = 0.1
  config.losses.l2_weight_decay = 1e-3
  config.evaluation.top_k = 2
  return task_factory.get_task(config)


@functools.cache
def model_of(weight):
  return task(weight).build_model()


def test_training_yields_auxiliary_logits_and_evaluation_does_not():
  model = model_of(0.4)
  images = tf.constant(IMAGES)
  training = model(images, training=True)
  assert {key: value.shape.as_list() for key, value in training.items()} == {
    "logits": [4, 3],
    "auxiliary_logits": [4, 3],
  }
  logits = model(images, training=False)
  plain = model_of(0.0)
  plain.backbone.set_weights(model.backbone.get_weights())
  plain.layers[-1].set_weights(dense_of_logits(model).get_weights())
  np.testing.assert_array_equal(logits, plain(images, training=False))


def dense_of_logits(model):
  (dense,) = (
    x
    for x in model.layers
    if isinstance(x, keras.layers.Dense)
    if not x.name.startswith("aux_")
  )
  return dense


def test_the_loss_adds_that_of_the_auxiliary_logits_by_its_weight():
  one_hot = tf.one_hot(LABELS, 3)
  rng = np.random.default_rng(1)
  outputs = {
    name: tf.constant(rng.normal(size=(4, 3)), tf.float32)
    for name in ("logits", "auxiliary_logits")
  }

  def by_hand(logits):
    target = one_hot * 0.9 + 0.1 / 3
    return -np.mean(np.sum(target * tf.nn.log_softmax(logits), axis=1))

  found = task(0.4).build_losses(one_hot, outputs, [tf.constant(0.25)])
  expected = by_hand(outputs["logits"]) + 0.4 * by_hand(outputs["auxiliary_logits"])
  assert float(found) == pytest.approx(expected + 0.25, rel=1e-5)


def test_a_training_step_moves_both_classifiers():
  chosen, model = task(0.4), model_of(0.4)
  metrics = chosen.build_metrics(training=True)
  before = {v.name: v.numpy() for v in model.trainable_variables}
  logs = chosen.train_step(
    (tf.constant(IMAGES), LABELS), model, keras.optimizers.legacy.SGD(0.1), metrics
  )
  assert np.isfinite(logs["loss"])
  still = [
    v.name for v in model.trainable_variables if (before[v.name] == v.numpy()).all()
  ]
  assert still == []
  assert all(float(metric.count) == 4 for metric in metrics)


def test_mobilenet_v2_has_no_auxiliary_logits():
  config = backbones.MobileNetV2(width_multiplier=0.35)
  with pytest.raises(UserError, match=r"has no auxiliary logits\. Set auxiliary_loss"):
    task(0.4, "mobilenet_v2", config, norm_epsilon=0.001).build_model()
