"""SSDLite on a few scenes: learned by heart; killed, resumed, and the same again."""

import helpers_short_runs
import helpers_small_network
import pytest
import tensorflow as tf
from helpers_detection_records import validate
from official.core import task_factory

import mnv2_hpu
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import object_detection as exp_cfg
from mnv2_hpu.data_preparation import digit_scenes
from mnv2_hpu.modeling import block_specs

mnv2_hpu.register()
pytestmark = pytest.mark.slow

EXPERIMENT = "mobilenet_v2_ssdlite"
TRAIN, VALIDATION, BATCH = 20, 6, 4
SETTINGS = {
  "batch_size": BATCH,
  "checkpoint_every_epochs": 2 * BATCH / TRAIN,
  "compute_dtype": "'bfloat16'",
  "ema_decay": 0.9,
  "eval_batch_size": 2,
  "eval_every_epochs": 4 * BATCH / TRAIN,
  "image_size": 96,
  "log_every_steps": 2,
  "train_epochs": 8 * BATCH / TRAIN,
  "width_multiplier": 0.35,
}


@pytest.fixture(scope="module")
def records(programs, tmp_path_factory):
  folder = tmp_path_factory.mktemp("scenes")
  digit_scenes.write_scenes(str(folder / "scenes"), TRAIN, VALIDATION, (96, 96))
  done = programs.run(
    "mnv2_hpu.cli.prepare_data",
    "--source=coco",
    f"--input_dir={folder / 'scenes'}",
    f"--output_dir={folder / 'records'}",
  )
  assert done.returncode == 0, done.output[-3000:]
  return folder / "records"


def arguments(records, model_dir):
  return helpers_short_runs.arguments(
    EXPERIMENT,
    "gin/ssdlite.gin",
    records,
    model_dir,
    mode="train_and_eval",
    settings=SETTINGS,
  )


def test_the_boxes_of_20_images_are_learned_by_heart(records, monkeypatch):
  """What is trained is what is found: place, size and class of some 120 boxes."""
  small = helpers_small_network.DETECTOR_SPECS
  monkeypatch.setattr(block_specs, "BLOCK_SPECS", small)
  recipe = exp_cfg.DetectionRecipe(
    data_dir=str(records),
    validation_files="train*",
    num_validation_examples=TRAIN,
    image_size=SETTINGS["image_size"],
    width_multiplier=SETTINGS["width_multiplier"],
    batch_size=TRAIN // 2,
    eval_batch_size=TRAIN,
    norm_momentum=0.8,
    random_crop="none",
    flip=False,
    weight_decay=0.0,
  )
  task = task_factory.get_task(exp_cfg.experiment(recipe).task)
  model = task.build_model()
  optimizer = keras.optimizers.legacy.Adam(0.003)
  step = tf.function(lambda inputs: task.train_step(inputs, model, optimizer))
  for inputs in task.build_inputs(task.task_config.train_data).take(220):
    step(inputs)
  _, metrics = validate(task, model)
  assert metrics["AP50"] >= 0.99


@pytest.fixture(scope="module")
def undisturbed(records, programs, tmp_path_factory):
  model_dir = tmp_path_factory.mktemp("undisturbed")
  helpers_short_runs.run(programs, arguments(records, model_dir))
  return model_dir


def test_a_killed_run_that_resumes_is_the_undisturbed_one(
  undisturbed, records, programs, tmp_path
):
  """Crops, flips and mined negatives are all in these steps."""
  args = arguments(records, tmp_path)
  helpers_short_runs.kill(programs, "stepping:6", args)
  helpers_short_runs.run(programs, args)
  found = helpers_short_runs.validation(tmp_path)
  assert [step for step, _ in found["AP50"]] == [4, 8]
  helpers_short_runs.assert_same(tmp_path, undisturbed)
