"""Resuming in a folder that holds another run."""

import json
import os

import pytest
import tensorflow as tf
from official.core import exp_factory

import mnv2_hpu
from mnv2_hpu.compat import keras
from mnv2_hpu.core import run_record
from mnv2_hpu.errors import UserError

mnv2_hpu.register()


def _model(units):
  return keras.Sequential([keras.layers.Dense(units, input_shape=(3,))])


def _save(model, model_dir):
  manager = tf.train.CheckpointManager(
    tf.train.Checkpoint(model=model), str(model_dir), max_to_keep=1
  )
  return manager.save()


@pytest.fixture
def config():
  return exp_factory.get_exp_config("mobilenet_imagenet")


def test_the_same_recipe_resumes(tmp_path, config):
  run_record.check_and_write(str(tmp_path), config, allow_change=False)
  _save(_model(2), tmp_path)
  config.trainer.train_steps += 100  # a longer training is the same recipe
  run_record.check_and_write(str(tmp_path), config, allow_change=False)
  record = json.loads((tmp_path / run_record.FILE).read_text())
  assert record["config"]["trainer"]["train_steps"] == config.trainer.train_steps


@pytest.mark.parametrize(
  ("override", "named"),
  [
    ({"task": {"model": {"num_classes": 7}}}, "task.model.num_classes: 1001 -> 7"),
    (
      {"task": {"train_data": {"global_batch_size": 8}}},
      "task.train_data.global_batch_size: 4096 -> 8",
    ),
    (
      {
        "trainer": {
          "optimizer_config": {
            "learning_rate": {"exponential": {"initial_learning_rate": 1.5}}
          }
        }
      },
      "initial_learning_rate: 0.256 -> 1.5",
    ),
  ],
)
def test_another_recipe_stops_and_is_named(tmp_path, config, override, named):
  run_record.check_and_write(str(tmp_path), config, allow_change=False)
  _save(_model(2), tmp_path)
  config.override(override)
  with pytest.raises(UserError) as raised:
    run_record.check_and_write(str(tmp_path), config, allow_change=False)
  assert named in str(raised.value)
  run_record.check_and_write(str(tmp_path), config, allow_change=True)


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path, config):
  run_record.check_and_write(str(tmp_path), config, allow_change=False)
  config.task.model.num_classes = 7
  run_record.check_and_write(str(tmp_path), config, allow_change=False)


def test_checkpoint_of_another_network_is_refused(tmp_path):
  _save(_model(2), tmp_path)
  run_record.check_checkpoint_fits(str(tmp_path), _model(2))
  with pytest.raises(UserError, match=r"another network.*\[5\]"):
    run_record.check_checkpoint_fits(str(tmp_path), _model(5))


def test_damaged_checkpoint_is_named(tmp_path):
  path = _save(_model(2), tmp_path)
  os.truncate(f"{path}.index", 10)
  with pytest.raises(UserError, match="cannot be read"):
    run_record.check_checkpoint_fits(str(tmp_path), _model(2))


def test_evaluating_an_empty_folder_is_refused(tmp_path):
  (tmp_path / "notes.txt").write_text("x")
  with pytest.raises(
    UserError, match=r"no checkpoint, but notes\.txt: nothing to evaluate"
  ):
    run_record.require_checkpoint(str(tmp_path))
  with pytest.raises(UserError, match="does not exist"):
    run_record.require_checkpoint(str(tmp_path / "missing"))
