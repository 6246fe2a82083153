"""Segmentation on two logical CPUs; test_semantic_segmentation.py runs this.

The devices must be set before TensorFlow's first operation, so these cannot share a
process with other tests.
"""

import helpers_deeplab
import helpers_small_network
import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory

import mnv2_hpu
from mnv2_hpu.compat import keras

mnv2_hpu.register()
helpers_small_network.install()
SIZE = (49, 33)
BATCH = 4
STEPS = 2


@pytest.fixture(scope="session")
def mirrored():
  cpu = tf.config.list_physical_devices("CPU")[0]
  two = [tf.config.LogicalDeviceConfiguration()] * 2
  tf.config.set_logical_device_configuration(cpu, two)
  return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def task_of():
  """DeepLabv3 whose batch norms see all replicas, without dropout."""
  config = exp_factory.get_exp_config("mobilenet_v2_deeplabv3").task
  config.override(
    {
      "model": {
        "input_size": [*SIZE, 3],
        "num_classes": 3,
        "dropout_rate": 0.0,
        "norm_activation": {"use_sync_bn": True},
        "head_norm_activation": {"use_sync_bn": True},
      },
    }
  )
  return task_factory.get_task(config)


def batch(step):
  """Images and masks; of the second half of the images, most pixels are ignored."""
  images = helpers_deeplab.normalized_images(step, BATCH, *SIZE)
  masks = helpers_deeplab.label_maps(step, BATCH, *SIZE) % 3
  masks[BATCH // 2 :, : SIZE[0] - 5] = 255
  return images, {"masks": masks}


def run(strategy, task):
  """Trains and evaluates; returns losses, metrics and weights."""
  with strategy.scope():
    model = task.build_model()
    optimizer = keras.optimizers.legacy.SGD(0.05, momentum=0.9)
    optimizer._create_all_weights(model.trainable_variables)
    metrics = task.build_metrics(training=False)

  def distributed(values):
    share = BATCH // strategy.num_replicas_in_sync

    def of_replica(context):
      start = context.replica_id_in_sync_group * share
      return tf.nest.map_structure(
        lambda x: tf.constant(x[start : start + share]), values
      )

    return strategy.experimental_distribute_values_from_function(of_replica)

  @tf.function
  def train(inputs):
    logs = strategy.run(lambda x: task.train_step(x, model, optimizer), args=(inputs,))
    return strategy.reduce("MEAN", logs[task.loss], axis=None)

  @tf.function
  def evaluate(inputs):
    strategy.run(lambda x: task.validation_step(x, model, metrics), args=(inputs,))

  losses = [float(train(distributed(batch(step)))) for step in range(STEPS)]
  evaluate(distributed(batch(STEPS)))
  logs = {metric.name: float(metric.result()) for metric in metrics}
  logs |= task.reduce_aggregated_logs(True)
  return losses, logs, [weight.numpy() for weight in model.variables]


def test_two_replicas_compute_what_one_does(mirrored):
  one = run(tf.distribute.OneDeviceStrategy("CPU:0"), task_of())
  two = run(mirrored, task_of())
  np.testing.assert_allclose(two[0], one[0], rtol=2e-4)
  assert two[1].keys() == one[1].keys() >= {"mean_iou", "validation_loss", "iou/1"}
  for name, value in one[1].items():
    np.testing.assert_allclose(two[1][name], value, rtol=0.02, atol=0.02)
  for a, b in zip(two[2], one[2], strict=True):
    assert np.abs(a - b).max() < 0.02 * (np.abs(b).max() + 0.1)
