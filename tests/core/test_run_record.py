"""Resuming in a folder that holds another run."""

import json

import pytest
import tensorflow as tf
from official.core import exp_factory

import mnv2_hpu
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import image_classification
from mnv2_hpu.configs.recipe import Recipe
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


@pytest.fixture
def recorded_by_an_earlier_release(tmp_path):
  """(folder, experiment): the record has the names of the release before."""
  recipe = Recipe(
    data_dir=str(tmp_path), num_classes=3, num_train_examples=96, crop=False
  )
  config = image_classification.experiment(recipe)
  run_record.check_and_write(str(tmp_path), config, allow_change=False)
  _save(_model(2), tmp_path)
  path = tmp_path / run_record.FILE
  record = json.loads(path.read_text())
  task = record["config"]["task"]
  task["learning_rate_scaling"] = "linear"
  for data in (task["train_data"], task["validation_data"]):
    options = data.pop("preprocessing_options")
    del options["preprocess_on_device"]  # which there was not
    data["aug_crop"] = options.pop("crop")
    data["aug_rand_hflip"] = options.pop("flip")
    data["center_crop_fraction"] = options.pop("central_fraction")
    data["max_unreadable_records"] = data.pop("max_corrupt_records")
    data.update(options)
  path.write_text(json.dumps(record))
  return str(tmp_path), config


def test_a_run_of_an_earlier_release_resumes(recorded_by_an_earlier_release):
  model_dir, config = recorded_by_an_earlier_release
  loaded = run_record.load(model_dir)
  assert json.dumps(loaded.as_dict()) == json.dumps(config.as_dict())
  run_record.check_and_write(model_dir, config, allow_change=False)


def test_a_run_of_the_gin_file_of_an_earlier_release_resumes(tmp_path):
  """With the values bound that gin/image_folder.gin left to `step_counts` since."""
  before = {"batch_size": 96, "train_epochs": 50, "norm_momentum": 0.99}
  fixed = {"data_dir": str(tmp_path), "num_classes": 3, "num_train_examples": 160}
  config = image_classification.experiment(Recipe(**fixed, **before))
  run_record.check_and_write(str(tmp_path), config, allow_change=False)
  _save(_model(2), tmp_path)
  path = tmp_path / run_record.FILE
  record = json.loads(path.read_text())
  for field in ("chosen", "backbone_learning_rate_multiplier"):
    del record["config"]["task"][field]
  path.write_text(json.dumps(record))
  loaded = run_record.load(str(tmp_path))
  assert json.dumps(loaded.as_dict()) == json.dumps(config.as_dict())
  run_record.check_and_write(str(tmp_path), config, allow_change=False)
  chosen = Recipe(**fixed, **dict.fromkeys(before))
  with pytest.raises(UserError, match=r"norm_momentum: 0\.99 -> 0\.9"):
    run_record.check_and_write(
      str(tmp_path), image_classification.experiment(chosen), allow_change=False
    )


def test_another_crop_is_another_recipe(recorded_by_an_earlier_release):
  model_dir, config = recorded_by_an_earlier_release
  config.task.train_data.preprocessing_options.crop = True
  with pytest.raises(UserError, match=r"preprocessing_options\.crop: False -> True"):
    run_record.check_and_write(model_dir, config, allow_change=False)


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path, config):
  run_record.check_and_write(str(tmp_path), config, allow_change=False)
  config.task.model.num_classes = 7
  run_record.check_and_write(str(tmp_path), config, allow_change=False)


@pytest.mark.parametrize(
  "content", ["", '{"config": {"task"', "[]", "null", b"\xff\xfe"]
)
def test_a_record_written_by_half_is_named_in_one_line(tmp_path, config, content):
  path = tmp_path / run_record.FILE
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(UserError, match=run_record.FILE) as raised:
    run_record.load(str(tmp_path))
  assert "\n" not in str(raised.value)
  _save(_model(2), tmp_path)
  with pytest.raises(UserError, match=run_record.FILE):
    run_record.check_and_write(str(tmp_path), config, allow_change=False)


def test_a_record_is_read_from_a_folder_alone(tmp_path, config):
  (tmp_path / "file").write_text("x")
  for model_dir, text in {
    tmp_path: "holds no run_record.json",
    tmp_path / "file": "is a file",
    tmp_path / "file" / "run": "does not exist",
  }.items():
    with pytest.raises(UserError, match=text):
      run_record.load(str(model_dir))


def test_a_run_is_finished_until_it_is_resumed(tmp_path, config):
  run_record.check_and_write(str(tmp_path), config, allow_change=False)
  assert run_record.finished_step(str(tmp_path)) is None
  run_record.write_finished(str(tmp_path), 40)
  assert run_record.finished_step(str(tmp_path)) == 40
  run_record.check_and_write(str(tmp_path), config, allow_change=False)
  assert run_record.finished_step(str(tmp_path)) is None


def test_a_field_that_came_with_a_release_does_not_refuse_a_run(tmp_path, config):
  run_record.check_and_write(str(tmp_path), config, allow_change=False)
  _save(_model(2), tmp_path)
  path = tmp_path / run_record.FILE
  record = json.loads(path.read_text())
  del record["config"]["task"]["model"]["dropout_rate"]
  path.write_text(json.dumps(record))
  run_record.check_and_write(str(tmp_path), config, allow_change=False)


@pytest.mark.parametrize(
  "config",
  [
    5,
    {"task": "text"},
    {"task": {"model": {"num_classes": "ten"}}},
    {"task": {"a": 1}},
    {"task": None},
    {"task": {"model": {"input_size": "big"}}},
    {"runtime": {"mixed_precision_dtype": "float99"}},
  ],
)
def test_a_record_of_wrong_values_is_one_error(tmp_path, config):
  (tmp_path / run_record.FILE).write_text(json.dumps({"config": config}))
  with pytest.raises(UserError, match=r"run_record\.json"):
    run_record.load(str(tmp_path))
