"""Every hyperparameter of a training, as gin-bindable arguments of its experiment."""

import dataclasses
import typing
from typing import Any

import gin
from official.vision.configs import backbones as upstream_backbones
from official.vision.configs import common

from mnv2_hpu import paths
from mnv2_hpu.configs.backbones import MobileNetV2
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo
from mnv2_hpu.dataloaders.input_fields import (
  PREPROCESSINGS,
  InputFields,
  PreprocessingFields,
)
from mnv2_hpu.errors import UserError, did_you_mean

COMPUTE_DTYPES = ("bfloat16", "float32")
# What is read: everything, the backbone, or everything but a head of other classes.
INIT_CHECKPOINT_MODULES = ("all", "backbone", "fitting")

_TYPE_WORDS = {
  bool: "True or False",
  float: "a number",
  int: "a whole number",
  str: "text in quotes",
  type(None): "None",
}


def _is_range(value: Any) -> bool:
  is_pair = isinstance(value, tuple | list) and len(value) == 2
  return (
    is_pair and all(type(v) in (int, float) for v in value) and value[0] <= value[1]
  )


@dataclasses.dataclass
class TrainingRecipe(InputFields):
  """What the recipes of all tasks bind; the defaults are classification's.

  Gin binds the fields as `<experiment>.<field>`. Each default stands once: here, or in
  the class that the field is inherited or taken from; a recipe of another task repeats
  those that differ. Sources: the paper (arXiv 1801.04381, section 6.1) and slim's
  `train_image_classifier.py`. `step_counts` chooses those that `CompleteRecipe` lists
  where they are bound to None.

  Raises:
    UserError: if a value is impossible.
  """

  # ---- Data. A count of 0 is read from data_dir/dataset.json. ----
  data_dir: str = gin.REQUIRED  # folder of the TFRecords
  train_files: str = "train-*"  # pattern below data_dir
  validation_files: str = "validation-*"  # pattern below data_dir
  num_classes: int = 0  # with the background class, where labels start at 1
  num_train_examples: int = 0
  num_validation_examples: int = 0

  image_size: int = 224  # height and width of the network's input, in pixels

  # ---- Network ----
  activation: str = "relu6"  # after every convolution but the projections
  norm_momentum: float | None = 0.997  # decay of the moving batch statistics
  norm_epsilon: float = 0.001  # added to the batch variance
  use_sync_bn: bool = False  # batch statistics over all replicas
  init_checkpoint: str = ""  # a checkpoint, or a folder of some, to start from
  init_checkpoint_modules: str = "backbone"  # one of INIT_CHECKPOINT_MODULES
  freeze_backbone: bool = False  # train the logits only; batch norm infers
  backbone_learning_rate_multiplier: float = 1.0  # factor of the backbone's rate

  # ---- Loss ----
  weight_decay: float = 4e-5  # times half the sum of squares of ordinary kernels

  # ---- Optimizer and learning rate ----
  optimizer: str = "rmsprop_tf1"  # a type of trainer.optimizer_config.optimizer
  rho: float = 0.9  # decay of RMSProp's mean square
  momentum: float = 0.9
  epsilon: float = 1.0  # inside RMSProp's root
  gradient_clip_norm: float = 0.0  # most that all gradients' norm may be; 0: unlimited
  learning_rate: float | None = 0.045  # for one replica
  # One of optimizers.LEARNING_RATE_SCHEDULES.
  learning_rate_schedule: str = "exponential_slim"
  learning_rate_scaling: str = "linear"  # one of schedules.SCALING_RULES
  decay_rate: float = 0.98  # factor of each decay
  decay_epochs: float = 2.5  # epochs between two decays
  staircase: bool = True  # decay in steps, not continuously
  decay_power: float = 1.0  # power of the polynomial decay; 1 is a line
  end_learning_rate: float = 1e-4  # last rate of the polynomial decay, for one replica
  slow_start_epochs: float = 0.0  # before the polynomial decay, at
  slow_start_learning_rate: float = 1e-4  # for all replicas
  warmup_epochs: float | None = None  # None: the rule's, at most half, at least
  min_warmup_fraction: float = 0.0  # this fraction of the training

  # ---- EMA weights ----
  ema_decay: float | None = 0.9999  # 0 keeps no EMA weights
  ema_batch_statistics: bool = True  # average the moving batch statistics too

  # ---- Durations ----
  batch_size: int | None = 96  # training images per replica
  eval_batch_size: int = 96  # evaluation images per replica
  train_epochs: float | None = 420.0
  eval_every_epochs: float | None = 1.0
  checkpoint_every_epochs: float | None = 1.0
  max_checkpoints: int = 5  # newest checkpoints that are kept
  log_every_steps: int = 20

  # ---- Where and how it runs ----
  distribution_strategy: str = "one_device"  # "hpu" or one of Model Garden's
  num_gpus: int = 0  # GPUs of this process, for "one_device" and "mirrored"
  compute_dtype: str = "float32"  # one of COMPUTE_DTYPES; logits, loss stay float32

  def __post_init__(self) -> None:
    """Checks what can be checked without the data."""
    self._check_types()
    for name in ("data_dir", "init_checkpoint"):
      if path := getattr(self, name):
        setattr(self, name, paths.resolve(path, name))
    choices = {
      "compute_dtype": COMPUTE_DTYPES,
      "preprocessing": PREPROCESSINGS,
      "init_checkpoint_modules": INIT_CHECKPOINT_MODULES,
    }
    for name, allowed in choices.items():
      value = getattr(self, name)
      if value not in allowed:
        raise UserError(f"{name}: {value!r} is unknown. {did_you_mean(value, allowed)}")
    for name in ("batch_size", "eval_batch_size", "image_size", "log_every_steps"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise UserError(f"{name} is {value}; it must be at least 1.")

  def _check_types(self) -> None:
    """Checks that numbers are numbers, so that no later error has to be understood."""
    for name, hint in typing.get_type_hints(type(self)).items():
      value = getattr(self, name)
      if typing.get_origin(hint) is tuple:
        is_right, words = _is_range(value), "two numbers, the smaller first"
      else:
        kinds = typing.get_args(hint) or (hint,)
        is_right = type(value) in kinds or (float in kinds and type(value) is int)
        words = " or ".join(_TYPE_WORDS[kind] for kind in kinds)
      if not is_right:
        raise UserError(f"{name} is {value!r}; it must be {words}.")

  def values_of(self, config_cls: type) -> dict[str, Any]:
    """Returns the values of the fields that a dataclass shares with the recipe."""
    names = {field.name for field in dataclasses.fields(self)}
    return {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(config_cls)
      if field.name in names
    }

  def count_classes(self, info: DatasetInfo) -> int:
    """Returns the `num_classes` of a prepared data set, where none is bound."""
    return info.num_classes


@dataclasses.dataclass(kw_only=True)
class CompleteRecipe(TrainingRecipe):
  """The type of a recipe in which nothing is left to `step_counts`."""

  norm_momentum: float
  learning_rate: float
  ema_decay: float
  batch_size: int
  train_epochs: float
  eval_every_epochs: float
  checkpoint_every_epochs: float


@dataclasses.dataclass
class MobileNetV2Fields:
  """What a recipe over MobileNetV2 binds of its network."""

  width_multiplier: float = MobileNetV2.width_multiplier
  finegrain_classification_mode: bool = MobileNetV2.finegrain_classification_mode
  use_explicit_padding: bool = MobileNetV2.use_explicit_padding
  output_stride: int | None = MobileNetV2.output_stride
  kernel_initializer_stddev: float = MobileNetV2.kernel_initializer_stddev


@dataclasses.dataclass
class ClassificationRecipe(TrainingRecipe, PreprocessingFields):
  """What recipes that classify images bind, whatever the network."""

  dropout_rate: float = 0.2  # before the logits
  label_smoothing: float = 0.1  # fraction of the target spread over all classes

  def count_classes(self, info: DatasetInfo) -> int:
    """Returns the data set's classes.

    Raises:
      UserError: If its training images are of one class only, or have no class.
    """
    info.check_task("classification", self.data_dir)
    train = info.splits.get("train")
    if train is not None and sum(count > 0 for count in train.examples_per_class) < 2:
      raise UserError(
        f"{self.data_dir!r} has training images of one class only: there is nothing "
        "to learn, and every accuracy would be 1. Prepare it again from a folder with "
        "one sub-folder a class."
      )
    return info.num_classes

  def model_fields(self, train_steps: int) -> dict[str, Any]:
    """Returns the fields of the model's configuration that depend on its network.

    Args:
      train_steps: Number of steps of the training.
    """
    raise NotImplementedError


@dataclasses.dataclass
class Recipe(ClassificationRecipe, MobileNetV2Fields):
  """MobileNetV2 classifying images, trained as slim trained it."""

  def model_fields(self, train_steps: int) -> dict[str, Any]:
    """Returns MobileNetV2's backbone, and the batch norm."""
    backbone = MobileNetV2(**self.values_of(MobileNetV2))
    norm = common.NormActivation(**self.values_of(common.NormActivation))
    return {
      "backbone": upstream_backbones.Backbone(
        type="mobilenet_v2", mobilenet_v2=backbone
      ),
      "norm_activation": norm,
    }


EXPERIMENT = "mobilenet_v2_classification"
SSDLITE = "mobilenet_v2_ssdlite"
DEEPLABV3 = "mobilenet_v2_deeplabv3"
DEEPLABV3PLUS = "mobilenet_v2_deeplabv3plus"
NASNET = "nasnet_classification"
# Quantization-aware training, by the experiment that it starts from.
QAT = {name: f"{name}_qat" for name in (EXPERIMENT, SSDLITE, DEEPLABV3, DEEPLABV3PLUS)}
# Those whose fields gin binds.
EXPERIMENTS = (*QAT, *QAT.values(), NASNET)

configured_recipe = gin.external_configurable(Recipe, EXPERIMENT, module="mnv2_hpu")
