"""MobileNetV2 image classification: its config dataclasses and its experiment."""

import dataclasses
import os
from typing import Any

from official.core import config_definitions as cfg
from official.core import exp_factory
from official.vision.configs import backbones as upstream_backbones
from official.vision.configs import common
from official.vision.configs import image_classification as upstream

from mnv2_hpu import deprecations
from mnv2_hpu.configs import experiments, schedules
from mnv2_hpu.configs.recipe import (
  EXPERIMENT,
  ClassificationRecipe,
  Recipe,
  configured_recipe,
)
from mnv2_hpu.dataloaders.input_fields import (
  PREPROCESSINGS,
  DataFields,
  InputFields,
  PreprocessingOptions,
  check_minima,
)
from mnv2_hpu.errors import UserError, did_you_mean


@dataclasses.dataclass
class DataConfig(DataFields, upstream.DataConfig):
  """Model Garden's input fields, and this project's (`dataloaders.input_fields`)."""

  preprocessing_options: PreprocessingOptions = dataclasses.field(
    default_factory=PreprocessingOptions
  )

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
    options = self.preprocessing_options
    if options.preprocess_on_device and (kind != "inception" or not options.fast_mode):
      raise UserError(
        f"preprocess_on_device is True, preprocessing {kind!r} and fast_mode "
        f"{options.fast_mode}; on the device colors change as in fast mode of "
        "'inception' only. Set fast_mode = True, or preprocess_on_device = False."
      )
    check_minima(self, image_size, num_classes)


@dataclasses.dataclass
class ImageClassificationModel(upstream.ImageClassificationModel):
  """Model Garden's classification model, by default with MobileNetV2 under it."""

  num_classes: int = 1001  # ImageNet's 1,000 and the background class 0
  input_size: list[int] = dataclasses.field(
    default_factory=lambda: [Recipe.image_size, Recipe.image_size, 3]
  )
  backbone: upstream_backbones.Backbone = dataclasses.field(
    default_factory=lambda: upstream_backbones.Backbone(type="mobilenet_v2")
  )
  dropout_rate: float = Recipe.dropout_rate
  # Factor of the auxiliary logits' loss; above 0 adds them, where a backbone has some.
  auxiliary_loss_weight: float = 0.0
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


def _model(
  recipe: ClassificationRecipe, schedule: schedules.Schedule
) -> ImageClassificationModel:
  return ImageClassificationModel(
    num_classes=recipe.num_classes,
    input_size=[recipe.image_size, recipe.image_size, 3],
    dropout_rate=recipe.dropout_rate,
    **recipe.model_fields(schedule.steps(recipe.train_epochs or 0)),
  )


def _data(
  recipe: ClassificationRecipe,
  files: str,
  is_training: bool,
  batch_size: int,
  num_examples: int,
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
  recipe: ClassificationRecipe,
  schedule: schedules.Schedule,
  num_replicas: int,
  chosen: list[str],
) -> ImageClassificationTask:
  return ImageClassificationTask(
    model=_model(recipe, schedule),
    losses=upstream.Losses(
      l2_weight_decay=recipe.weight_decay, label_smoothing=recipe.label_smoothing
    ),
    evaluation=upstream.Evaluation(top_k=min(5, recipe.num_classes)),
    train_data=_data(
      recipe,
      recipe.train_files,
      is_training=True,
      batch_size=schedule.global_batch_size,
      num_examples=schedule.num_examples,
    ),
    validation_data=_data(
      recipe,
      recipe.validation_files,
      is_training=False,
      batch_size=recipe.eval_batch_size * num_replicas,
      num_examples=recipe.num_validation_examples,
    ),
    init_checkpoint=recipe.init_checkpoint,
    init_checkpoint_modules=recipe.init_checkpoint_modules,
    freeze_backbone=recipe.freeze_backbone,
    backbone_learning_rate_multiplier=recipe.backbone_learning_rate_multiplier,
    chosen=chosen,
  )


def experiment(recipe: ClassificationRecipe) -> cfg.ExperimentConfig:
  """Returns the Model Garden experiment of a recipe; see `experiments.build`.

  Raises:
    UserError: If a value is impossible.
  """
  return experiments.build(recipe, _task, best_metric="accuracy")


@exp_factory.register_config_factory(EXPERIMENT)
def mobilenet_v2_classification() -> cfg.ExperimentConfig:
  """Returns the experiment of the recipe that gin has bound.

  Raises:
    UserError: If a value is impossible.
  """
  return experiment(configured_recipe())
