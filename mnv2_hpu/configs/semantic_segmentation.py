"""DeepLabv3 and v3+ over MobileNetV2: recipes, config dataclasses and experiments."""

import dataclasses
import os

import gin
from official.core import config_definitions as cfg
from official.core import exp_factory
from official.modeling import hyperparams
from official.vision.configs import backbones as upstream_backbones
from official.vision.configs import common

from mnv2_hpu.configs import backbones, experiments, schedules
from mnv2_hpu.configs.recipe import (
  DEEPLABV3,
  DEEPLABV3PLUS,
  MobileNetV2Fields,
  TrainingRecipe,
)
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo
from mnv2_hpu.dataloaders.input_fields import (
  DataFields,
  InputFields,
  SegmentationFields,
  SegmentationOptions,
)
from mnv2_hpu.modeling import deeplab, segmentation_loss

# The paper's six scales, each also mirrored.
MULTI_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
# Images and classes of VOC 2012 with the masks of SBD: `train_aug`.
_VOC_CLASSES, _VOC_IMAGES = 21, 10582


@dataclasses.dataclass
class SegmentationRecipe(TrainingRecipe, MobileNetV2Fields, SegmentationFields):
  """DeepLabv3 as the MobileNetV2 paper trains it (section 6.3), without ASPP.

  Epochs are those of VOC 2012 `train_aug`, 10,582 images. Without `data_dir` the
  network is VOC's. Sources: `train.py`, `common.py` of research/deeplab and its page
  on VOC.
  """

  data_dir: str = ""
  image_size: int = 513  # height and width of crops: k times the output stride plus 1
  eval_image_size: int | None = None  # evaluation pads to it; None: image_size
  output_stride: int | None = 16
  channel_divisor: int = backbones.MobileNetV2.channel_divisor
  aspp: str = "none"  # atrous branches, one of deeplab.CONVOLUTIONS
  decoder: str = "none"  # at stride 4, one of deeplab.CONVOLUTIONS
  head_activation: str = deeplab.Norm.activation
  head_norm_momentum: float = deeplab.Norm.norm_momentum
  head_norm_epsilon: float = deeplab.Norm.norm_epsilon
  fine_tune_batch_norm: bool = True  # False: the start's statistics, for small batches
  dropout_rate: float = 0.1  # before the decoder, or the logits
  head_channels: int = deeplab.CHANNELS  # outputs of each branch and of the decoder
  ignore_label: int = segmentation_loss.IGNORE_LABEL  # pixels that count nowhere
  hard_pixel_share: float = 1.0  # fraction of pixels trained on, of the largest losses
  upsample_logits: bool = True  # False trains on labels of the logits' size: faster
  hard_pixel_ramp_epochs: float = 0.0  # in which that fraction falls from 1
  optimizer: str = "sgd"
  learning_rate: float | None = 0.007
  learning_rate_schedule: str = "polynomial"
  decay_power: float = 0.9
  end_learning_rate: float = 0.0
  ema_decay: float | None = 0.0
  shuffle_buffer_size: int = 2048
  batch_size: int | None = 16
  eval_batch_size: int = 8
  train_epochs: float | None = 45.3601  # 30,000 steps
  eval_multi_scale: bool = False  # average over MULTI_SCALES, each also mirrored

  def count_classes(self, info: DatasetInfo) -> int:
    """Returns the data set's classes.

    Raises:
      UserError: If its images have no masks.
    """
    info.check_task("segmentation", self.data_dir)
    return info.num_classes


@dataclasses.dataclass
class SegmentationPlusRecipe(SegmentationRecipe):
  """DeepLabv3+ with research/deeplab's own flags: all of the head is separable."""

  aspp: str = "separable"
  decoder: str = "separable"


_Recipe = SegmentationRecipe | type[SegmentationRecipe]
_RECIPES = {
  name: gin.external_configurable(recipe, name, module="mnv2_hpu")
  for name, recipe in (
    (DEEPLABV3, SegmentationRecipe),
    (DEEPLABV3PLUS, SegmentationPlusRecipe),
  )
}


@dataclasses.dataclass
class DataConfig(DataFields, cfg.DataConfig):
  """Model Garden's input fields, and this project's (`dataloaders.input_fields`)."""

  preprocessing_options: SegmentationOptions = dataclasses.field(
    default_factory=SegmentationOptions
  )
  # Height and width that images are cropped or padded to; empty: model.input_size.
  output_size: list[int] = dataclasses.field(default_factory=list)


def _backbone(recipe: _Recipe) -> upstream_backbones.Backbone:
  config = backbones.MobileNetV2(
    output_intermediate_endpoints=True, include_last_convolution=False
  )
  names = {field.name for field in dataclasses.fields(config)}
  config.override(
    {name: getattr(recipe, name) for name in names if hasattr(recipe, name)}
  )
  return upstream_backbones.Backbone(type="mobilenet_v2", mobilenet_v2=config)


def _norm_activation(recipe: _Recipe, prefix: str = "") -> common.NormActivation:
  names = ("activation", "norm_momentum", "norm_epsilon")
  return common.NormActivation(
    use_sync_bn=recipe.use_sync_bn,
    **{name: getattr(recipe, prefix + name) for name in names},
  )


@dataclasses.dataclass
class DeepLabModel(hyperparams.Config):
  """The network, `modeling.deeplab.DeepLab`."""

  num_classes: int = _VOC_CLASSES
  input_size: list[int] = dataclasses.field(
    default_factory=lambda: [
      SegmentationRecipe.image_size,
      SegmentationRecipe.image_size,
      3,
    ]
  )
  backbone: upstream_backbones.Backbone = dataclasses.field(
    default_factory=lambda: _backbone(SegmentationRecipe)
  )
  aspp: str = SegmentationRecipe.aspp
  decoder: str = SegmentationRecipe.decoder
  # Dilation rates; None: 6, 12, 18 at output stride 16, and 12, 24, 36 at 8.
  atrous_rates: list[int] | None = None
  norm_activation: common.NormActivation = dataclasses.field(
    default_factory=lambda: _norm_activation(SegmentationRecipe)
  )
  head_norm_activation: common.NormActivation = dataclasses.field(
    default_factory=lambda: _norm_activation(SegmentationRecipe, "head_")
  )
  fine_tune_batch_norm: bool = SegmentationRecipe.fine_tune_batch_norm
  dropout_rate: float = SegmentationRecipe.dropout_rate
  head_channels: int = SegmentationRecipe.head_channels


@dataclasses.dataclass
class Losses(hyperparams.Config):
  """What `modeling.segmentation_loss` averages, and the weight decay."""

  l2_weight_decay: float = SegmentationRecipe.weight_decay
  ignore_label: int = SegmentationRecipe.ignore_label
  class_weights: list[float] = dataclasses.field(default_factory=list)  # empty: all 1
  hard_pixel_share: float = SegmentationRecipe.hard_pixel_share
  hard_pixel_ramp_steps: int = 0
  upsample_logits: bool = SegmentationRecipe.upsample_logits


@dataclasses.dataclass
class Evaluation(hyperparams.Config):
  """How classes are predicted, and what is logged."""

  scales: list[float] = dataclasses.field(default_factory=lambda: [1.0])
  add_flipped_images: bool = False  # average with the mirrored image's prediction
  report_per_class_iou: bool = True


@dataclasses.dataclass
class SemanticSegmentationTask(cfg.TaskConfig):
  """The configuration of `tasks.semantic_segmentation.SemanticSegmentationTask`."""

  model: DeepLabModel = dataclasses.field(default_factory=DeepLabModel)
  losses: Losses = dataclasses.field(default_factory=Losses)
  evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
  train_data: DataConfig = dataclasses.field(
    default_factory=lambda: DataConfig(is_training=True)
  )
  validation_data: DataConfig = dataclasses.field(
    default_factory=lambda: DataConfig(is_training=False, drop_remainder=False)
  )
  init_checkpoint_modules: str = SegmentationRecipe.init_checkpoint_modules
  freeze_backbone: bool = SegmentationRecipe.freeze_backbone
  backbone_learning_rate_multiplier: float = (
    SegmentationRecipe.backbone_learning_rate_multiplier
  )
  # Model Garden's training step reads it; images are not split.
  train_input_partition_dims: list[int] = dataclasses.field(default_factory=list)
  # What `step_counts` has chosen, and why; for people.
  chosen: list[str] = dataclasses.field(default_factory=list)


def _data(
  recipe: SegmentationRecipe,
  files: str,
  is_training: bool,
  batch_size: int,
  num_examples: int,
) -> DataConfig:
  size = recipe.image_size if is_training else recipe.eval_image_size
  return DataConfig(
    input_path=os.path.join(recipe.data_dir, files),
    is_training=is_training,
    drop_remainder=is_training,
    global_batch_size=batch_size,
    num_examples=num_examples,
    output_size=[size, size] if size else [],
    preprocessing_options=SegmentationOptions(**recipe.values_of(SegmentationOptions)),
    **recipe.values_of(InputFields),
  )


def _task(
  recipe: SegmentationRecipe,
  schedule: schedules.Schedule,
  num_replicas: int,
  chosen: list[str],
) -> SemanticSegmentationTask:
  return SemanticSegmentationTask(
    model=DeepLabModel(
      input_size=[recipe.image_size, recipe.image_size, 3],
      backbone=_backbone(recipe),
      norm_activation=_norm_activation(recipe),
      head_norm_activation=_norm_activation(recipe, "head_"),
      **{
        name: getattr(recipe, name)
        for name in (
          "num_classes",
          "aspp",
          "decoder",
          "fine_tune_batch_norm",
          "dropout_rate",
          "head_channels",
        )
      },
    ),
    losses=Losses(
      l2_weight_decay=recipe.weight_decay,
      ignore_label=recipe.ignore_label,
      hard_pixel_share=recipe.hard_pixel_share,
      upsample_logits=recipe.upsample_logits,
      hard_pixel_ramp_steps=schedule.steps(recipe.hard_pixel_ramp_epochs),
    ),
    evaluation=Evaluation(
      scales=list(MULTI_SCALES) if recipe.eval_multi_scale else [1.0],
      add_flipped_images=recipe.eval_multi_scale,
    ),
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


def experiment(recipe: SegmentationRecipe) -> cfg.ExperimentConfig:
  """Returns the Model Garden experiment of a recipe; see `experiments.build`.

  Raises:
    UserError: If a value is impossible.
  """
  if not recipe.data_dir:
    recipe = dataclasses.replace(
      recipe,
      num_classes=recipe.num_classes or _VOC_CLASSES,
      num_train_examples=recipe.num_train_examples or _VOC_IMAGES,
    )
  return experiments.build(recipe, _task, best_metric="mean_iou")


@exp_factory.register_config_factory(DEEPLABV3)
def mobilenet_v2_deeplabv3() -> cfg.ExperimentConfig:
  """Returns the experiment of the recipe that gin has bound.

  Raises:
    UserError: If a value is impossible.
  """
  return experiment(_RECIPES[DEEPLABV3]())


@exp_factory.register_config_factory(DEEPLABV3PLUS)
def mobilenet_v2_deeplabv3plus() -> cfg.ExperimentConfig:
  """Returns the experiment of the recipe that gin has bound, with a decoder.

  Raises:
    UserError: If a value is impossible.
  """
  return experiment(_RECIPES[DEEPLABV3PLUS]())
