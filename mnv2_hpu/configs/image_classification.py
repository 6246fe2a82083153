"""MobileNetV2 image classification: its config dataclasses and its experiment."""

import dataclasses
import os
from typing import Any

from official.core import config_definitions as cfg
from official.core import exp_factory
from official.vision.configs import backbones as upstream_backbones
from official.vision.configs import common
from official.vision.configs import image_classification as upstream

from mnv2_hpu import cluster, deprecations, driver_flags
from mnv2_hpu.checkpoints import import_record
from mnv2_hpu.configs import backbones, optimizers, schedules, step_counts
from mnv2_hpu.configs.recipe import CompleteRecipe, Recipe, configured_recipe
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo
from mnv2_hpu.dataloaders.input_fields import (
  PREPROCESSINGS,
  InputFields,
  PreprocessingOptions,
)
from mnv2_hpu.errors import UserError, did_you_mean


@dataclasses.dataclass
class DataConfig(InputFields, upstream.DataConfig):
  """Model Garden's input fields, and this project's (`dataloaders.input_fields`)."""

  preprocessing_options: PreprocessingOptions = dataclasses.field(
    default_factory=PreprocessingOptions
  )
  num_examples: int = 0  # 0: counted from the files

  def _override(self, override_dict: dict[str, Any], is_strict: bool = True) -> None:
    """Accepts the names that fields had in the last release too."""
    super()._override(deprecations.rename_data_fields(override_dict), is_strict)

  def check(self, image_size: tuple[int, int], num_classes: int) -> None:
    """Refuses values that no input can be built from.

    Args:
      image_size: Height and width of the images in pixels.
      num_classes: Labels lie in [0, num_classes).

    Raises:
      UserError: Naming the field, its value and what is allowed.
    """
    kind = self.preprocessing
    if kind not in PREPROCESSINGS:
      raise UserError(
        f"preprocessing: {kind!r} is unknown. {did_you_mean(kind, PREPROCESSINGS)}"
      )
    minima = {
      "global_batch_size": (self.global_batch_size, 1),
      "image height": (image_size[0], 1),
      "image width": (image_size[1], 1),
      "shuffle_buffer_size": (self.shuffle_buffer_size, 1),
      "autotune_ram_mib": (self.autotune_ram_mib, 1),
      "max_corrupt_records": (self.max_corrupt_records, 0),
      "num_classes": (num_classes, 2),  # with one, every accuracy is 1
    }
    for name, (value, minimum) in minima.items():
      if value < minimum:
        raise UserError(f"{name} is {value}; it must be at least {minimum}.")


@dataclasses.dataclass
class ImageClassificationModel(upstream.ImageClassificationModel):
  """Model Garden's classification model with MobileNetV2 under it."""

  num_classes: int = 1001  # ImageNet's 1,000 and the background class 0
  input_size: list[int] = dataclasses.field(
    default_factory=lambda: [Recipe.image_size, Recipe.image_size, 3]
  )
  backbone: upstream_backbones.Backbone = dataclasses.field(
    default_factory=lambda: upstream_backbones.Backbone(type="mobilenet_v2")
  )
  dropout_rate: float = Recipe.dropout_rate
  norm_activation: common.NormActivation = dataclasses.field(
    default_factory=lambda: common.NormActivation(
      activation=Recipe.activation,
      norm_momentum=Recipe.norm_momentum,
      norm_epsilon=Recipe.norm_epsilon,
      use_sync_bn=Recipe.use_sync_bn,
    )
  )


@dataclasses.dataclass
class ImageClassificationTask(upstream.ImageClassificationTask):
  """The configuration of `tasks.image_classification.ImageClassificationTask`."""

  model: ImageClassificationModel = dataclasses.field(
    default_factory=ImageClassificationModel
  )
  train_data: DataConfig = dataclasses.field(
    default_factory=lambda: DataConfig(is_training=True)
  )
  validation_data: DataConfig = dataclasses.field(
    default_factory=lambda: DataConfig(is_training=False, drop_remainder=False)
  )
  backbone_learning_rate_multiplier: float = Recipe.backbone_learning_rate_multiplier
  # What `step_counts` has chosen, and why; for people.
  chosen: list[str] = dataclasses.field(default_factory=list)


def with_counts(recipe: Recipe) -> Recipe:
  """Returns the recipe with the counts it left at 0 read from dataset.json.

  Raises:
    UserError: If they are neither bound nor recorded, or there are fewer classes than
      two.
  """
  info = DatasetInfo.find(recipe.data_dir)
  if info is None:
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
  train, validation = info.splits.get("train"), info.splits.get("validation")
  if train is not None and sum(count > 0 for count in train.examples_per_class) < 2:
    raise UserError(
      f"{recipe.data_dir!r} has training images of one class only: there is nothing to "
      "learn, and every accuracy would be 1. Prepare it again from a folder with one "
      "sub-folder a class."
    )
  return dataclasses.replace(
    recipe,
    num_classes=recipe.num_classes or info.num_classes,
    num_train_examples=recipe.num_train_examples
    or (train.num_examples if train else 0),
    num_validation_examples=recipe.num_validation_examples
    or (validation.num_examples if validation else 0),
  )


def _model(recipe: CompleteRecipe) -> ImageClassificationModel:
  backbone = backbones.MobileNetV2(**recipe.values_of(backbones.MobileNetV2))
  return ImageClassificationModel(
    num_classes=recipe.num_classes,
    input_size=[recipe.image_size, recipe.image_size, 3],
    dropout_rate=recipe.dropout_rate,
    backbone=upstream_backbones.Backbone(type="mobilenet_v2", mobilenet_v2=backbone),
    norm_activation=common.NormActivation(**recipe.values_of(common.NormActivation)),
  )


def _data(
  recipe: Recipe, files: str, is_training: bool, batch_size: int, num_examples: int
) -> DataConfig:
  return DataConfig(
    input_path=os.path.join(recipe.data_dir, files),
    is_training=is_training,
    drop_remainder=is_training,
    global_batch_size=batch_size,
    num_examples=num_examples,
    preprocessing_options=PreprocessingOptions(
      **recipe.values_of(PreprocessingOptions)
    ),
    **recipe.values_of(InputFields),
  )


def _task(
  recipe: CompleteRecipe, num_replicas: int, chosen: list[str]
) -> ImageClassificationTask:
  return ImageClassificationTask(
    model=_model(recipe),
    losses=upstream.Losses(
      l2_weight_decay=recipe.weight_decay, label_smoothing=recipe.label_smoothing
    ),
    evaluation=upstream.Evaluation(top_k=min(5, recipe.num_classes)),
    train_data=_data(
      recipe,
      recipe.train_files,
      is_training=True,
      batch_size=recipe.batch_size * num_replicas,
      num_examples=recipe.num_train_examples,
    ),
    validation_data=_data(
      recipe,
      recipe.validation_files,
      is_training=False,
      batch_size=recipe.eval_batch_size * num_replicas,
      num_examples=recipe.num_validation_examples,
    ),
    init_checkpoint=import_record.find_moved(
      recipe.init_checkpoint, driver_flags.gin_files()
    ),
    init_checkpoint_modules=recipe.init_checkpoint_modules,
    freeze_backbone=recipe.freeze_backbone,
    backbone_learning_rate_multiplier=recipe.backbone_learning_rate_multiplier,
    chosen=chosen,
  )


def _trainer(recipe: CompleteRecipe, num_replicas: int) -> cfg.TrainerConfig:
  schedule = schedules.Schedule(
    recipe.num_train_examples, recipe.batch_size * num_replicas
  )

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
    best_checkpoint_eval_metric="accuracy",
    best_checkpoint_export_subdir="best_ckpt",
    # The trainer saves on SIGTERM; TensorFlow's handler waits for Google's notices.
    preemption_on_demand_checkpoint=False,
    optimizer_config=optimizers.optimization_config(recipe, schedule, num_replicas),
  )


def experiment(recipe: Recipe) -> cfg.ExperimentConfig:
  """Returns the Model Garden experiment of a recipe.

  The number of replicas follows from the environment (see `cluster`) and
  `num_gpus`.

  Raises:
    UserError: if the data set's counts are unknown, or a duration is impossible.
  """
  num_replicas = cluster.world_size(os.environ) * max(1, recipe.num_gpus)
  recipe, chosen = step_counts.complete(with_counts(recipe), num_replicas)
  return cfg.ExperimentConfig(
    task=_task(recipe, num_replicas, chosen),
    trainer=_trainer(recipe, num_replicas),
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


@exp_factory.register_config_factory("mobilenet_v2_classification")
def mobilenet_v2_classification() -> cfg.ExperimentConfig:
  """Returns the experiment of the recipe that gin has bound.

  Raises:
    UserError: if a value is impossible.
  """
  return experiment(configured_recipe())
