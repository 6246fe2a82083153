import helpers_random_weights
import numpy as np
import pytest
import tensorflow as tf

import mnv2_hpu
from mnv2_hpu.compat import keras
from mnv2_hpu.serving import folded_network


@pytest.fixture(scope="module")
def task_config():
  mnv2_hpu.register()
  from mnv2_hpu.configs import image_classification as exp_cfg

  task = exp_cfg.ImageClassificationTask()
  task.model.num_classes = 11
  task.model.input_size = [64, 64, 3]
  task.model.backbone.mobilenet_v2.width_multiplier = 0.35
  return task


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [32, 16])
def test_whole_network_without_batch_norms_gives_the_same_logits(
  task_config, output_stride
):
  from official.core import task_factory

  task_config.model.backbone.mobilenet_v2.output_stride = output_stride
  model = helpers_random_weights.with_random_weights(
    task_factory.get_task(task_config).build_model()
  )
  before = model.get_weights()
  folded = folded_network.fold_batch_norms(model)
  images = tf.random.uniform([8, 64, 64, 3], -1, 1)
  expected = model(images, training=False).numpy()
  assert np.ptp(expected, axis=0).min() > 0.01 * np.ptp(expected)  # the images differ
  difference = np.abs(folded(images, training=False) - expected).max()
  assert difference <= 3e-5 * np.abs(expected).max()
  kinds = {type(layer) for layer in folded.submodules}
  assert not kinds & {keras.layers.BatchNormalization}
  for ours, theirs in zip(before, model.get_weights(), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_network_of_another_backbone_stays_as_it_is():
  from official.vision.modeling import backbones, classification_model

  specs = keras.layers.InputSpec(shape=[None, 32, 32, 3])
  backbone = backbones.ResNet(18, input_specs=specs)
  model = classification_model.ClassificationModel(backbone, 3, specs)
  assert folded_network.fold_batch_norms(model) is model
