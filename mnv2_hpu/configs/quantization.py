"""Quantization-aware training of a finished float run: recipes and experiments.

Sources: arXiv 1806.08342 (sections 3.2.1 and 3.2.2: batch norm frozen before the end,
EMA weights), research/deeplab's `g3doc/quantize.md`.
"""

import copy
import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import gin
import tensorflow as tf
import yaml
from official.core import config_definitions as cfg
from official.core import exp_factory
from official.modeling import hyperparams

from mnv2_hpu import driver_flags
from mnv2_hpu.configs import (
  image_classification,
  object_detection,
  schedules,
  semantic_segmentation,
)
from mnv2_hpu.configs.recipe import (
  DEEPLABV3,
  DEEPLABV3PLUS,
  EXPERIMENT,
  QAT,
  SSDLITE,
  Recipe,
  TrainingRecipe,
)
from mnv2_hpu.errors import UserError

_PARAMS = "params.yaml"  # Model Garden's, in the folder of a run
# Fields of the input that a network is trained with and for.
_TAKEN = ("preprocessing", "preprocessing_options", "output_size")


@dataclasses.dataclass
class QuantizationRecipe(TrainingRecipe):
  """What a quantization-aware training binds otherwise than the float one.

  Raises:
    UserError: If it would start from nothing, or compute in bfloat16.
  """

  # Epochs after which batch norms use their moving statistics; 0: never.
  freeze_batch_norm_epochs: float = 4.0
  init_checkpoint_modules: str = "all"
  ema_decay: float | None = None
  optimizer: str = "sgd"
  learning_rate: float | None = 1e-3
  learning_rate_schedule: str = "polynomial"
  end_learning_rate: float = 0.0
  ema_batch_statistics: bool = True
  train_epochs: float | None = 8.0

  def __post_init__(self) -> None:
    """Checks what can be checked without the data."""
    super().__post_init__()
    if not self.init_checkpoint:
      raise UserError(
        "init_checkpoint is empty: quantization-aware training starts from a finished "
        "float run, and from nothing it does not learn. Bind it to the folder of that "
        "run, or to a checkpoint in it."
      )
    epochs = self.freeze_batch_norm_epochs
    if not 0 <= epochs < math.inf:
      raise UserError(
        f"freeze_batch_norm_epochs is {epochs!r}; it must be a number of epochs, or 0: "
        "never."
      )
    if self.compute_dtype != "float32":
      raise UserError(
        f"compute_dtype is {self.compute_dtype!r}; quantization-aware training rounds "
        "in float32. Bind it to 'float32'."
      )


@dataclasses.dataclass
class ClassificationQATRecipe(QuantizationRecipe, Recipe):
  """MobileNetV2 classifying images, in int8."""

  batch_size: int | None = None


@dataclasses.dataclass
class DetectionQATRecipe(QuantizationRecipe, object_detection.DetectionRecipe):
  """SSDLite in int8."""


@dataclasses.dataclass
class SegmentationQATRecipe(
  QuantizationRecipe, semantic_segmentation.SegmentationRecipe
):
  """DeepLabv3 in int8, at the rate of research/deeplab's page on quantization."""

  learning_rate: float | None = 3e-5


@dataclasses.dataclass
class SegmentationPlusQATRecipe(
  SegmentationQATRecipe, semantic_segmentation.SegmentationPlusRecipe
):
  """DeepLabv3+ in int8."""


@dataclasses.dataclass
class QuantizationAwareTask(hyperparams.Config):
  """What the configuration of a quantization-aware task has beside the float one's."""

  freeze_batch_norm_step: int = 0  # from it on the moving statistics are used; 0: never


@dataclasses.dataclass
class ImageClassificationQATTask(
  QuantizationAwareTask, image_classification.ImageClassificationTask
):
  """The configuration of `tasks.quantization.ImageClassificationQATTask`."""


@dataclasses.dataclass
class ObjectDetectionQATTask(
  QuantizationAwareTask, object_detection.ObjectDetectionTask
):
  """The configuration of `tasks.quantization.ObjectDetectionQATTask`."""


@dataclasses.dataclass
class SemanticSegmentationQATTask(
  QuantizationAwareTask, semantic_segmentation.SemanticSegmentationTask
):
  """The configuration of `tasks.quantization.SemanticSegmentationQATTask`."""


# Configuration of a quantization-aware task -> that of the float one.
FLOAT_TASKS: dict[type[cfg.TaskConfig], type[cfg.TaskConfig]] = {
  ImageClassificationQATTask: image_classification.ImageClassificationTask,
  ObjectDetectionQATTask: object_detection.ObjectDetectionTask,
  SemanticSegmentationQATTask: semantic_segmentation.SemanticSegmentationTask,
}


def is_quantized(task: cfg.TaskConfig) -> bool:
  """Whether a task is quantization-aware."""
  return type(task) in FLOAT_TASKS


def float_type(task: cfg.TaskConfig) -> type[cfg.TaskConfig]:
  """Returns the configuration's type, or that of the float task under it."""
  return FLOAT_TASKS.get(type(task), type(task))


def float_experiment(params: cfg.ExperimentConfig) -> cfg.ExperimentConfig:
  """Returns the experiment of the float network that a quantization-aware run has."""
  task_cls = float_type(params.task)
  params = copy.deepcopy(params)
  params.task = task_cls(**_fields(params.task, task_cls))
  return params


def _fields(task: cfg.TaskConfig, task_cls: type[cfg.TaskConfig]) -> dict[str, Any]:
  return {
    field.name: getattr(task, field.name) for field in dataclasses.fields(task_cls)
  }


def _resumed_folder() -> str | None:
  """Returns the folder of the run that the driver resumes, if it does."""
  model_dir = driver_flags.given_paths().get("model_dir")
  return model_dir if model_dir and tf.train.latest_checkpoint(model_dir) else None


def _recorded(checkpoint: str) -> str | None:
  """Returns the `params.yaml` that has the network: that of the start, if it is a run.

  A run that resumes has its own, and needs its start no more.
  """
  if resumed := _resumed_folder():
    return os.path.join(resumed, _PARAMS)
  folder = checkpoint if tf.io.gfile.isdir(checkpoint) else os.path.dirname(checkpoint)
  folders = (folder, os.path.dirname(folder))  # that of `best_ckpt` is inside the run's
  files = (os.path.join(parent, _PARAMS) for parent in folders)
  return next(filter(tf.io.gfile.exists, files), None)


def _check_is_float(checkpoint: str, is_float: bool) -> None:
  """Refuses a quantization-aware start, and to resume a float run.

  Args:
    checkpoint: The start.
    is_float: Whether what was recorded, of the resumed run or of the start, is float.
  """
  resumed = _resumed_folder()
  if resumed and is_float:
    raise UserError(
      f"model_dir is {resumed!r}, the folder of a float run. Give quantization-aware "
      "training a folder of its own, and that one as init_checkpoint."
    )
  if not resumed and not is_float:
    raise UserError(
      f"init_checkpoint is {checkpoint!r}, which is quantization-aware itself. Give "
      "the float run that it started from; or, to go on with it, its folder as "
      "model_dir and more train_epochs."
    )


def _take_network(config: cfg.ExperimentConfig, checkpoint: str) -> None:
  """Sets network and preprocessing as the float run has them, if it is a run.

  Raises:
    UserError: If it is the run of another task, or is quantization-aware itself.
  """
  path = _recorded(checkpoint)
  if path is None:
    return
  num_classes = config.task.model.num_classes
  try:
    task = hyperparams.read_yaml_to_params_dict(path).as_dict()["task"]
    is_float = "freeze_batch_norm_step" not in task
    config.task.model.override(task["model"])
    for name in ("train_data", "validation_data"):
      taken = {key: task[name][key] for key in _TAKEN if key in task[name]}
      getattr(config.task, name).override(taken)
  except (AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
    reason = " ".join(str(error).split())
    raise UserError(
      f"init_checkpoint is {checkpoint!r}, whose {_PARAMS} is not that of a run of "
      f"this task ({type(error).__name__}: {reason}). Give the folder of a float run "
      "of the same task."
    ) from error
  _check_is_float(checkpoint, is_float)
  of_start = config.task.model.num_classes
  if of_start != num_classes:
    raise UserError(
      f"init_checkpoint is {checkpoint!r}, a network of {of_start} classes, but the "
      f"data has {num_classes}. Give the data that it was trained on."
    )
  config.task.chosen.append(f"network and preprocessing: those of {path}")


def experiment(recipe: QuantizationRecipe) -> cfg.ExperimentConfig:
  """Returns the experiment of a recipe: the float one's, with the network of its start.

  Raises:
    UserError: If a value is impossible, or the start is the run of another task.
  """
  task_cls, experiment_of = _TASKS[type(recipe)]
  config = experiment_of(recipe)
  data = config.task.train_data
  schedule = schedules.Schedule(data.num_examples, data.global_batch_size)
  _take_network(config, recipe.init_checkpoint)
  config.task = task_cls(
    freeze_batch_norm_step=schedule.steps(recipe.freeze_batch_norm_epochs),
    **_fields(config.task, FLOAT_TASKS[task_cls]),
  )
  return config


# Recipe -> configuration of its task, and what makes the float experiment of it.
_TASKS: dict[type[QuantizationRecipe], tuple[type[cfg.TaskConfig], Callable[..., Any]]]
_TASKS = {
  ClassificationQATRecipe: (
    ImageClassificationQATTask,
    image_classification.experiment,
  ),
  DetectionQATRecipe: (ObjectDetectionQATTask, object_detection.experiment),
  **dict.fromkeys(
    (SegmentationQATRecipe, SegmentationPlusQATRecipe),
    (SemanticSegmentationQATTask, semantic_segmentation.experiment),
  ),
}


def _register(float_name: str, recipe_cls: type[QuantizationRecipe]) -> None:
  """Registers the experiment `<float_name>_qat`, whose recipe gin binds."""
  name = QAT[float_name]
  configured = gin.external_configurable(recipe_cls, name, module="mnv2_hpu")
  exp_factory.register_config_factory(name)(lambda: experiment(configured()))


_register(EXPERIMENT, ClassificationQATRecipe)
_register(SSDLITE, DetectionQATRecipe)
_register(DEEPLABV3, SegmentationQATRecipe)
_register(DEEPLABV3PLUS, SegmentationPlusQATRecipe)
