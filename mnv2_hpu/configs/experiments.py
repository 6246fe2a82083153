"""From a recipe to Model Garden's experiment: what does not depend on the task."""

import dataclasses
import os
from collections.abc import Callable
from typing import TypeVar

from official.core import config_definitions as cfg

from mnv2_hpu import cluster, driver_flags
from mnv2_hpu.checkpoints import import_record
from mnv2_hpu.configs import optimizers, schedules, step_counts
from mnv2_hpu.configs.recipe import CompleteRecipe, TrainingRecipe
from mnv2_hpu.dataloaders import dataset_info
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo
from mnv2_hpu.errors import UserError

RecipeT = TypeVar("RecipeT", bound=TrainingRecipe)


def with_counts(recipe: RecipeT) -> RecipeT:
  """Returns the recipe with the counts it left at 0 read from dataset.json.

  Raises:
    UserError: If they are neither bound nor recorded, or there is nothing to learn.
  """
  info = DatasetInfo.find(recipe.data_dir)
  if info is None:
    if os.path.isdir(os.path.join(recipe.data_dir, dataset_info.UNFINISHED)):
      raise UserError(f"data_dir={recipe.data_dir}: {dataset_info.FINISH}.")
    if not (recipe.num_classes and recipe.num_train_examples):
      is_there = "://" in recipe.data_dir or os.path.isdir(recipe.data_dir)
      raise UserError(
        f"data_dir={recipe.data_dir} "
        f"{'holds no dataset.json' if is_there else 'does not exist'}. Give the folder "
        "that mnv2-prepare-data wrote as DATA_DIR; for TFRecords of others bind "
        f"num_classes and num_train_examples too, which are {recipe.num_classes} and "
        f"{recipe.num_train_examples}."
      )
    return recipe
  num_classes = recipe.count_classes(info)
  train, validation = info.splits.get("train"), info.splits.get("validation")
  return dataclasses.replace(
    recipe,
    num_classes=recipe.num_classes or num_classes,
    num_train_examples=recipe.num_train_examples
    or (train.num_examples if train else 0),
    num_validation_examples=recipe.num_validation_examples
    or (validation.num_examples if validation else 0),
  )


def _trainer(
  recipe: CompleteRecipe,
  schedule: schedules.Schedule,
  num_replicas: int,
  best_metric: str,
) -> cfg.TrainerConfig:
  def interval(epochs: float) -> int:
    """Whole logging intervals: orbit would cut the last one short, and log it so."""
    loops = round(schedule.steps(epochs) / recipe.log_every_steps)
    return max(1, loops) * recipe.log_every_steps

  return cfg.TrainerConfig(
    train_steps=schedule.steps(recipe.train_epochs),
    validation_steps=-1,  # the whole set
    validation_interval=interval(recipe.eval_every_epochs),
    checkpoint_interval=interval(recipe.checkpoint_every_epochs),
    steps_per_loop=recipe.log_every_steps,
    summary_interval=recipe.log_every_steps,
    max_to_keep=recipe.max_checkpoints,
    best_checkpoint_eval_metric=best_metric,
    best_checkpoint_export_subdir="best_ckpt",
    # The trainer saves on SIGTERM; TensorFlow's handler waits for Google's notices.
    preemption_on_demand_checkpoint=False,
    optimizer_config=optimizers.optimization_config(recipe, schedule, num_replicas),
  )


def build(
  recipe: RecipeT,
  make_task: Callable[[RecipeT, schedules.Schedule, int, list[str]], cfg.TaskConfig],
  best_metric: str,
) -> cfg.ExperimentConfig:
  """Returns the Model Garden experiment of a recipe.

  The number of replicas follows from the environment (see `cluster`) and `num_gpus`.

  Args:
    recipe: What gin has bound.
    make_task: Called with the complete recipe, its schedule, the number of replicas and
      what `step_counts` has chosen and why; returns the task's configuration.
    best_metric: Metric of an evaluation by which the best checkpoint is kept; higher
      is better.

  Raises:
    UserError: If the data set's counts are unknown, or a duration is impossible.
  """
  num_replicas = cluster.world_size(os.environ) * max(1, recipe.num_gpus)
  complete, chosen = step_counts.complete(with_counts(recipe), num_replicas)
  complete.init_checkpoint = import_record.find_moved(
    complete.init_checkpoint, driver_flags.gin_files()
  )
  schedule = schedules.Schedule(
    complete.num_train_examples, complete.batch_size * num_replicas
  )
  return cfg.ExperimentConfig(
    task=make_task(complete, schedule, num_replicas, chosen),
    trainer=_trainer(complete, schedule, num_replicas, best_metric),
    runtime=cfg.RuntimeConfig(
      distribution_strategy=recipe.distribution_strategy,
      num_gpus=recipe.num_gpus,
      mixed_precision_dtype=recipe.compute_dtype,
    ),
    restrictions=[
      "task.train_data.is_training != None",
      "task.validation_data.is_training != None",
    ],
  )
