"""The trainer's evaluations, against those of Model Garden's own trainer."""

import os
import pathlib

import helpers_images
import numpy as np
import pytest
import tensorflow as tf
from official.core import base_trainer, task_factory
from official.core import config_definitions as cfg
from official.vision.configs import backbones as upstream_backbones

import mnv2_hpu
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import backbones
from mnv2_hpu.configs import image_classification as exp_cfg
from mnv2_hpu.core import trainer
from mnv2_hpu.data_preparation import prepare
from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation import run_watcher, sidecar

mnv2_hpu.register()

pytestmark = pytest.mark.usefixtures("small_network")

CLASSES = dict.fromkeys("abcdefg", 1)  # a class for each image
BATCH = 2


@pytest.fixture(scope="module")
def records(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  images = helpers_images.write_folder(folder / "in", CLASSES)
  prepare.prepare(prepare.PreparationOptions(images, str(folder / "out")))
  return str(folder / "out" / "train-*")


@pytest.fixture
def build(records, tmp_path):
  """Builds a trainer of a class; all evaluate one network on the same images."""
  data = {"input_path": records, "global_batch_size": BATCH}
  task_config = exp_cfg.ImageClassificationTask(
    model=exp_cfg.ImageClassificationModel(
      num_classes=1 + len(CLASSES),
      input_size=[32, 32, 3],
      backbone=upstream_backbones.Backbone(
        type="mobilenet_v2",
        mobilenet_v2=backbones.MobileNetV2(width_multiplier=0.35),
      ),
    ),
    train_data=exp_cfg.DataConfig(is_training=True, **data),
    validation_data=exp_cfg.DataConfig(is_training=False, **data),
  )
  config = cfg.ExperimentConfig(task=task_config)
  model = task_factory.get_task(task_config).build_model()
  # So that the label matters, and each image has a loss of its own.
  model.trainable_variables[-1].assign(0.1 * np.arange(1 + len(CLASSES)) ** 2)

  def build_one(trainer_class, best_metric="accuracy", **arguments):
    config.trainer.best_checkpoint_eval_metric = best_metric
    task = task_factory.get_task(task_config, logging_dir=str(tmp_path))
    optimizer = keras.optimizers.legacy.SGD(0.1)
    return trainer_class(config, task, model, optimizer, train=False, **arguments)

  return build_one


def _loss(built, steps):
  return built.evaluate(tf.constant(steps))["validation_loss"]


def test_each_evaluation_sees_the_same_images_whatever_came_before(build):
  ours, stock = build(trainer.Trainer), build(base_trainer.Trainer)
  expected = {steps: _loss(stock, steps) for steps in (-1, 1, 3)}
  assert len({round(float(loss), 6) for loss in expected.values()}) == 3
  for steps in (-1, -1, 1, 1, 3, -1, 3, -1):
    np.testing.assert_allclose(_loss(ours, steps), expected[steps], rtol=1e-6)


def test_a_best_metric_that_does_not_exist_is_refused_before_the_first_step(build):
  with pytest.raises(UserError, match=r"eval_metric is 'acuracy'.*Did you mean 'accur"):
    build(trainer.Trainer, "acuracy", checkpoint_exporter=True)


def test_more_steps_than_there_are_images_count_none_twice(build):
  ours = build(trainer.Trainer)
  assert _loss(ours, 1000) == _loss(ours, -1) == _loss(ours, 4)


def test_the_input_that_others_build_of_the_task_ends(build):
  ours = build(trainer.Trainer)
  data = ours.task.build_inputs(ours.task.task_config.validation_data)
  assert len(list(data.take(100))) == 4


def test_whole_evaluations_share_one_iterator(build, monkeypatch):
  """Giving one up may stop the process for a minute (docs/benchmarks.md)."""
  ours = build(trainer.Trainer)
  made = []
  dataset = type(ours.eval_dataset)
  make = dataset.__iter__
  monkeypatch.setattr(dataset, "__iter__", lambda self: made.append(1) or make(self))
  for _ in range(3):
    _loss(ours, -1)
  assert len(made) == 1


def test_evaluations_do_not_hold_on_to_memory(build):
  """What many cycles of training and evaluation died of elsewhere."""
  ours = build(trainer.Trainer)

  def resident_after(evaluations):
    for _ in range(evaluations):
      _loss(ours, -1)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

  settled = resident_after(10)
  assert resident_after(40) < settled + 16


def test_a_sidecar_outlives_a_checkpoint_deleted_under_it(build, tmp_path):
  log = sidecar.EvaluationLog(str(tmp_path))
  follower = sidecar.Sidecar(build(trainer.Trainer), str(tmp_path), log)
  line = follower.evaluate(str(tmp_path / "ckpt-7"), run_watcher.Written(7, 1.0))
  assert line == (
    "step 7: skipped, the training has deleted its checkpoint (trainer.max_to_keep)"
  )
  assert follower.summary() == f"no checkpoint of {tmp_path} could be evaluated"
