"""What a start costs that no clock shows: conversions by autograph, operations."""

import sys

import pytest
import tensorflow as tf
from official.core import task_factory

import mnv2_hpu
from mnv2_hpu.configs import image_classification
from mnv2_hpu.configs.recipe import Recipe
from mnv2_hpu.distribute import variable_sync

mnv2_hpu.register()

MAX_OPERATIONS = 4_800  # 4,714 at the time of writing


@pytest.fixture
def config(digits_records):
  recipe = Recipe(
    data_dir=str(digits_records), image_size=32, num_train_examples=0, num_classes=10
  )
  return image_classification.experiment(recipe)


def _converted():
  """Names of the modules that autograph has written: one for each function."""
  return {name for name in sys.modules if name.startswith("__autograph_generated")}


def test_the_input_is_not_converted(config):
  task = task_factory.get_task(config.task)
  before = _converted()
  task.build_inputs(config.task.train_data)
  assert _converted() == before


def test_the_graph_of_a_step_is_small(config):
  task = task_factory.get_task(config.task)
  model = task.build_model()
  optimizer = task.create_optimizer(config.trainer.optimizer_config)
  optimizer.shadow_copy(model)
  variable_sync.create_slots(optimizer, model.trainable_variables)
  metrics = task.build_metrics(training=True)
  inputs = task.build_inputs(config.task.train_data).element_spec

  @tf.autograph.experimental.do_not_convert
  def step(batch):
    return task.train_step(batch, model, optimizer, metrics)

  graph = tf.function(step).get_concrete_function(inputs).graph
  assert len(graph.get_operations()) <= MAX_OPERATIONS
