"""Writes other people's weights as a run's folder: to evaluate, export, train from."""

import dataclasses
import os
from typing import Any

from official.core import config_definitions as cfg
from official.vision.configs import backbones as upstream_backbones

from mnv2_hpu.checkpoints import detectors, import_record, pretrained, segmenters
from mnv2_hpu.checkpoints.import_record import GIN_FILE
from mnv2_hpu.checkpoints.pretrained import PretrainedInfo
from mnv2_hpu.configs import backbones
from mnv2_hpu.configs import image_classification as exp_cfg
from mnv2_hpu.configs.recipe import Recipe
from mnv2_hpu.core.imported import folder
from mnv2_hpu.core.imported.detector import ImportedDetector, import_detector
from mnv2_hpu.core.imported.segmenter import ImportedSegmenter, import_segmenter
from mnv2_hpu.errors import UserError
from mnv2_hpu.serving import preprocessing

# Fields of the network that gin and the recorded experiment take from the weights.
_NETWORK = (
  "width_multiplier",
  "finegrain_classification_mode",
  "use_explicit_padding",
  "output_stride",
)


@dataclasses.dataclass(frozen=True)
class ImportedCheckpoint:
  """What was written.

  Attributes:
    path: Prefix of the files.
    info: What was read.
  """

  path: str
  info: PretrainedInfo

  def summary(self) -> str:
    """Returns lines on what was read, what it expects, how to use it."""
    info, run_dir = self.info, os.path.dirname(self.path)
    step = "" if info.global_step is None else f", step {info.global_step}"
    kind = f"{info.weights} weights" if info.source == "slim" else "weights"
    lines = [
      f"{self.path}: the {kind} of {info.path} ({info.source}{step})",
      f"  network   width_multiplier={info.width_multiplier}, "
      f"finegrain_classification_mode={info.finegrain_classification_mode}, "
      f"num_classes={info.num_classes}",
      f"            use_explicit_padding={info.use_explicit_padding}, "
      f"norm_epsilon={info.norm_epsilon}",
      f"  images    {info.image_size} x {info.image_size}, preprocessing "
      f"{info.preprocessing!r}: {_normalization(info)}",
      f"  labels    {_labels(info)}",
      *(f"  note      {note}" for note in info.notes),
      f"  train     mnv2-train --gin_file={os.path.join(run_dir, GIN_FILE)} …",
    ]
    if info.num_classes is not None:
      lines.append(
        f"  use       mnv2-predict --model={run_dir} …; mnv2-evaluate and mnv2-export "
        "take it as --model_dir"
      )
    return "\n".join(lines)


def metadata(info: PretrainedInfo) -> dict[str, Any]:
  """Returns the content of import.json."""
  background = info.background_class
  return {
    **dataclasses.asdict(info),
    "preprocessing": {
      "name": info.preprocessing,
      "normalization": _normalization(info),
    },
    "labels": {
      "background_class": 0 if background else None,
      "first_class": 1 if background else None,
    },
  }


def _normalization(info: PretrainedInfo) -> str:
  return preprocessing.KINDS[info.preprocessing].normalization


def _labels(info: PretrainedInfo) -> str:
  if info.num_classes is None:
    return "no classifier"
  if info.background_class:
    return "0 is the background, ImageNet's classes are 1 to 1000"
  if info.label_names:
    return f"{info.num_classes} classes: {', '.join(info.label_names[:3])}, …"
  return f"{info.num_classes} classes, numbered as when it was trained"


def import_checkpoint(
  checkpoint: str,
  output_dir: str,
  *,
  weights: str = "ema",
  width_multiplier: float | None = None,
  num_classes: int | None = None,
) -> ImportedCheckpoint | ImportedDetector | ImportedSegmenter:
  """Writes weights of any source as a checkpoint of Model Garden's.

  Args:
    checkpoint: A file or a folder, as `checkpoints.load_pretrained` takes it.
    output_dir: Folder to write, whole or not at all; absent or empty.
    weights: Of a slim or Object Detection API checkpoint, `"ema"` or `"raw"`.
    width_multiplier: Width that the checkpoint must have; None infers it.
    num_classes: Number of classes that it must have; None infers it.

  Raises:
    UserError: If the folder is in use, or the weights cannot be read.
  """
  if os.path.exists(output_dir) and (
    not os.path.isdir(output_dir) or os.listdir(output_dir)
  ):
    raise UserError(
      f"--output_dir={output_dir!r} exists and is not an empty folder. Give another "
      "one, or remove it."
    )
  required = folder.Required(width_multiplier, num_classes)
  if segmenters.is_segmenter(checkpoint):
    return import_segmenter(checkpoint, output_dir, required)
  if detectors.is_detector(checkpoint):
    return import_detector(checkpoint, output_dir, weights, required)
  model, info = pretrained.load_pretrained(checkpoint, weights)
  required.check(info)
  output_dir = os.path.abspath(output_dir)
  has_classes = info.num_classes is not None
  models = {"backbone": model}
  if has_classes:
    models = {"model": model, "backbone": model.backbone}
  path = folder.write(
    output_dir,
    models,
    info.global_step,
    metadata(info),
    _gin(info, output_dir),
    _experiment(info) if has_classes else None,
  )
  return ImportedCheckpoint(path, info)


def _experiment(info: PretrainedInfo) -> cfg.ExperimentConfig:
  """Returns an experiment that evaluates and exports as the weights expect."""
  task = exp_cfg.ImageClassificationTask()
  backbone = backbones.MobileNetV2(**{n: getattr(info, n) for n in _NETWORK})
  task.model.override(
    {
      "num_classes": info.num_classes,
      "input_size": [info.image_size, info.image_size, 3],
      "norm_activation": {"norm_epsilon": info.norm_epsilon},
    }
  )
  task.model.backbone = upstream_backbones.Backbone(
    type="mobilenet_v2", mobilenet_v2=backbone
  )
  for data in (task.train_data, task.validation_data):
    data.override(
      {
        "preprocessing": info.preprocessing,
        "preprocessing_options": {"central_fraction": info.central_fraction},
        "global_batch_size": Recipe.eval_batch_size,
      }
    )
  return cfg.ExperimentConfig(task=task, runtime=folder.FLOAT32)


def _gin(info: PretrainedInfo, output_dir: str) -> str:
  """Returns a gin file that trains from the weights, with what they expect."""
  values = {name: getattr(info, name) for name in _NETWORK}
  values |= {
    "norm_epsilon": info.norm_epsilon,
    "preprocessing": info.preprocessing,
    "central_fraction": info.central_fraction,
    "image_size": info.image_size,
  }
  bindings = "\n".join(
    f"mobilenet_v2_classification.{name} = {value!r}" for name, value in values.items()
  )
  return f"""\
# From weights of {info.source} to your own classes; written by mnv2-import-checkpoint.
#
#   mnv2-train --gin_file={os.path.join(output_dir, GIN_FILE)} \\
#     --model_dir=runs/fine_tuned --gin_params='DATA_DIR = "data/images"'
#
# Required: DATA_DIR. All else is as in gin/fine_tune.gin, and as the weights expect,
# which are found beside this file where the folder was moved.

import mnv2_hpu.registry_imports
include "gin/fine_tune.gin"

{import_record.start_line(output_dir)}
{bindings}
"""
