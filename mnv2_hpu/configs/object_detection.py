"""SSDLite over MobileNetV2: its recipe, its config dataclasses and its experiment."""

import dataclasses
import os

import gin
from official.core import config_definitions as cfg
from official.core import exp_factory
from official.modeling import hyperparams
from official.vision.configs import backbones as upstream_backbones
from official.vision.configs import common

from mnv2_hpu.configs import backbones, experiments, schedules
from mnv2_hpu.configs.recipe import SSDLITE, MobileNetV2Fields, TrainingRecipe
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo
from mnv2_hpu.dataloaders.input_fields import (
  DataFields,
  DetectionFields,
  DetectionOptions,
  InputFields,
)
from mnv2_hpu.modeling import multibox

# Label slots and training images of COCO 2017.
_COCO_CLASSES, _COCO_IMAGES = 90, 118_287


@dataclasses.dataclass
class DetectionRecipe(TrainingRecipe, MobileNetV2Fields, DetectionFields):
  """SSDLite as `ssdlite_mobilenet_v2_coco.config` of the TF1 API trains it.

  Epochs are those of COCO's 118,287 images of 2017. `num_classes` does not count the
  background. Without `data_dir` the network is COCO's.
  """

  data_dir: str = ""
  image_size: int = 300
  finegrain_classification_mode: bool = False
  min_channels: int = 16  # fewest channels of a layer
  head_kernel_initializer_stddev: float = (
    0.03  # stddev of the layers after the backbone
  )
  norm_momentum: float | None = 0.9997
  shuffle_buffer_size: int = 2048
  learning_rate: float | None = 0.004
  decay_rate: float = 0.95
  decay_epochs: float = 162.5  # 800,720 steps: never within the training
  ema_batch_statistics: bool = False
  batch_size: int | None = 24
  eval_batch_size: int = 24
  train_epochs: float | None = 40.58  # 200,000 steps
  score_threshold: float = multibox.SCORE_THRESHOLD  # above which a box is kept
  nms_iou_threshold: float = multibox.NMS_IOU_THRESHOLD  # above which boxes are one
  per_category_metrics: bool = False  # average precision of each class, too

  def count_classes(self, info: DatasetInfo) -> int:
    """Returns the data set's classes, without its background.

    Raises:
      UserError: If its images have no boxes.
    """
    info.check_task("detection", self.data_dir)
    return info.num_classes - 1


configured_recipe = gin.external_configurable(
  DetectionRecipe, SSDLITE, module="mnv2_hpu"
)


@dataclasses.dataclass
class DataConfig(DataFields, cfg.DataConfig):
  """Model Garden's input fields, and this project's (`dataloaders.input_fields`)."""

  preprocessing_options: DetectionOptions = dataclasses.field(
    default_factory=DetectionOptions
  )


def _backbone(
  recipe: type[DetectionRecipe] | DetectionRecipe,
) -> upstream_backbones.Backbone:
  values = {
    field.name: getattr(recipe, field.name)
    for field in dataclasses.fields(backbones.MobileNetV2)
    if hasattr(recipe, field.name)
  }
  return upstream_backbones.Backbone(
    type="mobilenet_v2",
    mobilenet_v2=backbones.MobileNetV2(
      **{**values, "output_intermediate_endpoints": True}
    ),
  )


def _norm_activation(
  recipe: type[DetectionRecipe] | DetectionRecipe,
) -> common.NormActivation:
  names = (field.name for field in dataclasses.fields(common.NormActivation))
  return common.NormActivation(
    **{name: getattr(recipe, name) for name in names if hasattr(recipe, name)}
  )


@dataclasses.dataclass
class SSDLiteModel(hyperparams.Config):
  """The network, `modeling.ssdlite.SSDLite`, and what makes boxes of its output."""

  num_classes: int = _COCO_CLASSES  # without the background
  input_size: list[int] = dataclasses.field(
    default_factory=lambda: [DetectionRecipe.image_size, DetectionRecipe.image_size, 3]
  )
  backbone: upstream_backbones.Backbone = dataclasses.field(
    default_factory=lambda: _backbone(DetectionRecipe)
  )
  norm_activation: common.NormActivation = dataclasses.field(
    default_factory=lambda: _norm_activation(DetectionRecipe)
  )
  head_kernel_initializer_stddev: float = DetectionRecipe.head_kernel_initializer_stddev
  score_threshold: float = DetectionRecipe.score_threshold
  nms_iou_threshold: float = DetectionRecipe.nms_iou_threshold


@dataclasses.dataclass
class Losses(hyperparams.Config):
  """Weights of the losses."""

  l2_weight_decay: float = DetectionRecipe.weight_decay


@dataclasses.dataclass
class ObjectDetectionTask(cfg.TaskConfig):
  """The configuration of `tasks.object_detection.ObjectDetectionTask`."""

  model: SSDLiteModel = dataclasses.field(default_factory=SSDLiteModel)
  losses: Losses = dataclasses.field(default_factory=Losses)
  train_data: DataConfig = dataclasses.field(
    default_factory=lambda: DataConfig(is_training=True)
  )
  validation_data: DataConfig = dataclasses.field(
    default_factory=lambda: DataConfig(is_training=False, drop_remainder=False)
  )
  init_checkpoint_modules: str = DetectionRecipe.init_checkpoint_modules
  freeze_backbone: bool = DetectionRecipe.freeze_backbone
  backbone_learning_rate_multiplier: float = (
    DetectionRecipe.backbone_learning_rate_multiplier
  )
  per_category_metrics: bool = DetectionRecipe.per_category_metrics
  # What `step_counts` has chosen, and why; for people.
  chosen: list[str] = dataclasses.field(default_factory=list)


def _data(
  recipe: DetectionRecipe,
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
    preprocessing_options=DetectionOptions(**recipe.values_of(DetectionOptions)),
    **recipe.values_of(InputFields),
  )


def _task(
  recipe: DetectionRecipe,
  schedule: schedules.Schedule,
  num_replicas: int,
  chosen: list[str],
) -> ObjectDetectionTask:
  return ObjectDetectionTask(
    model=SSDLiteModel(
      num_classes=recipe.num_classes,
      input_size=[recipe.image_size, recipe.image_size, 3],
      backbone=_backbone(recipe),
      norm_activation=_norm_activation(recipe),
      head_kernel_initializer_stddev=recipe.head_kernel_initializer_stddev,
      score_threshold=recipe.score_threshold,
      nms_iou_threshold=recipe.nms_iou_threshold,
    ),
    losses=Losses(l2_weight_decay=recipe.weight_decay),
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
    per_category_metrics=recipe.per_category_metrics,
    chosen=chosen,
  )


def experiment(recipe: DetectionRecipe) -> cfg.ExperimentConfig:
  """Returns the Model Garden experiment of a recipe; see `experiments.build`.

  Raises:
    UserError: If a value is impossible.
  """
  if not recipe.data_dir:
    recipe = dataclasses.replace(
      recipe,
      num_classes=recipe.num_classes or _COCO_CLASSES,
      num_train_examples=recipe.num_train_examples or _COCO_IMAGES,
    )
  return experiments.build(recipe, _task, best_metric="AP")


@exp_factory.register_config_factory(SSDLITE)
def mobilenet_v2_ssdlite() -> cfg.ExperimentConfig:
  """Returns the experiment of the recipe that gin has bound.

  Raises:
    UserError: If a value is impossible.
  """
  return experiment(configured_recipe())
