"""What follows from the number of images: chosen where None, the user's otherwise."""

import dataclasses

import gin
import pytest

import mnv2_hpu
from mnv2_hpu.configs import gin_files, image_classification, step_counts
from mnv2_hpu.configs.recipe import Recipe, configured_recipe
from mnv2_hpu.configs.schedules import Schedule

mnv2_hpu.register()
CHOSEN = (
  "batch_size",
  "learning_rate",
  "train_epochs",
  "eval_every_epochs",
  "checkpoint_every_epochs",
  "norm_momentum",
  "ema_decay",
)


@pytest.fixture(params=["image_folder.gin", "fine_tune.gin"])
def recipe(request):
  """The recipe of a gin file for a folder of so many images."""
  gin.clear_config()
  gin.parse_config_files_and_bindings(
    [gin_files.path(request.param)], ["DATA_DIR = 'data'", "START = 'before'"]
  )
  bound = dataclasses.replace(configured_recipe(), num_classes=5)
  yield lambda images, **values: dataclasses.replace(
    bound, num_train_examples=images, **values
  )
  gin.clear_config()


def _optimizer(config):
  return config.trainer.optimizer_config


@pytest.mark.parametrize("images", [20, 100, 157, 300, 1000, 3000, 50_000])
def test_every_folder_gets_enough_steps_for_its_averages(recipe, images):
  config = image_classification.experiment(recipe(images))
  steps = config.trainer.train_steps
  assert steps >= step_counts.MIN_TRAIN_STEPS
  assert steps * config.task.train_data.global_batch_size >= 50 * images * 0.99
  averages = (
    config.task.model.norm_activation.norm_momentum,
    _optimizer(config).ema.average_decay,
  )
  for decay in averages:
    assert 0.9 <= decay < 1
    assert step_counts.steps_needed(decay) < steps / 2
  assert _optimizer(config).warmup.linear.warmup_steps == pytest.approx(
    steps / 20, abs=1
  )
  assert len(config.task.chosen) == len(CHOSEN)
  rate = 0.045 * config.task.train_data.global_batch_size / 96
  initial = _optimizer(config).learning_rate.cosine.initial_learning_rate
  assert initial == pytest.approx(rate)
  assert steps / config.trainer.validation_interval <= step_counts.MAX_EVALUATIONS * 1.5


def test_what_is_bound_wins(recipe):
  bound = recipe(
    160,
    batch_size=40,
    learning_rate=0.02,
    train_epochs=7,
    norm_momentum=0.9,
    ema_decay=0.0,
    warmup_epochs=0.0,
    eval_every_epochs=5,
    checkpoint_every_epochs=5,
  )
  config = image_classification.experiment(bound)
  assert config.task.train_data.global_batch_size == 40
  assert _optimizer(config).learning_rate.cosine.initial_learning_rate == 0.02
  assert config.trainer.train_steps == 28
  assert config.task.model.norm_activation.norm_momentum == 0.9
  assert config.trainer.validation_interval == 20
  assert _optimizer(config).ema is None
  assert _optimizer(config).warmup.type is None
  assert config.task.chosen == []


@pytest.mark.parametrize("replicas", [1, 2, 8])
def test_replicas_share_a_batch_of_a_small_folder(replicas):
  batch = step_counts.batch_size(3000, replicas) * replicas
  assert 3000 / batch >= step_counts.MIN_STEPS_PER_EPOCH * 0.9


def test_a_long_training_has_the_recipes_own_averages():
  recipe = Recipe(data_dir="data", norm_momentum=None, ema_decay=None)
  recipe.num_train_examples, recipe.num_classes = 1_281_167, 1001
  complete, reasons = step_counts.complete(recipe, 1)
  assert complete.norm_momentum == Recipe.norm_momentum
  assert complete.ema_decay == Recipe.ema_decay
  assert len(reasons) == 2


def test_nothing_is_chosen_for_a_recipe_that_says_everything():
  recipe = Recipe(data_dir="data", num_classes=3, num_train_examples=96)
  complete, reasons = step_counts.complete(recipe, 4)
  assert dataclasses.asdict(complete) == dataclasses.asdict(recipe)
  assert reasons == []


def test_a_chosen_batch_is_the_largest_that_leaves_enough_steps():
  for images in range(130, 800, 10):
    batch = step_counts.batch_size(images)
    assert Schedule(images, batch).steps_per_epoch >= step_counts.MIN_STEPS_PER_EPOCH
