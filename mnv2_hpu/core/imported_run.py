"""Writes other people's weights as a run's folder: to evaluate, export, train from."""

import dataclasses
import json
import os
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg
from official.vision.configs import backbones as upstream_backbones

from mnv2_hpu import __version__, files
from mnv2_hpu.checkpoints import import_record, pretrained, segmenters
from mnv2_hpu.checkpoints.import_record import FILE as METADATA
from mnv2_hpu.checkpoints.import_record import GIN_FILE
from mnv2_hpu.checkpoints.pretrained import PretrainedInfo
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import backbones
from mnv2_hpu.configs import image_classification as exp_cfg
from mnv2_hpu.configs.recipe import Recipe
from mnv2_hpu.core import run_record
from mnv2_hpu.core.imported_segmenter import ImportedSegmenter, import_segmenter
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
    info, folder = self.info, os.path.dirname(self.path)
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
      f"  train     mnv2-train --gin_file={os.path.join(folder, GIN_FILE)} …",
    ]
    if info.num_classes is not None:
      lines.append(
        f"  use       mnv2-predict --model={folder} …; mnv2-evaluate and mnv2-export "
        "take it as --model_dir"
      )
    return "\n".join(lines)

  def metadata(self) -> dict[str, Any]:
    """Returns the content of import.json."""
    info = self.info
    first = 1 if info.background_class else None
    return {
      **dataclasses.asdict(info),
      "preprocessing": {
        "name": info.preprocessing,
        "normalization": _normalization(info),
      },
      "labels": {
        "background_class": 0 if info.background_class else None,
        "first_class": first,
      },
      "tool_version": __version__,
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
) -> ImportedCheckpoint | ImportedSegmenter:
  """Writes weights of any source as a checkpoint of Model Garden's.

  Args:
    checkpoint: A file or a folder, as `checkpoints.load_pretrained` takes it.
    output_dir: Folder to write, whole or not at all; absent or empty.
    weights: Of a slim checkpoint, `"ema"` or `"raw"`.
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
  if segmenters.is_segmenter(checkpoint):
    return import_segmenter(checkpoint, output_dir)
  model, info = pretrained.load_pretrained(checkpoint, weights)
  required = {"width_multiplier": width_multiplier, "num_classes": num_classes}
  for name, value in required.items():
    if value is not None and value != getattr(info, name):
      raise UserError(
        f"{info.path!r} is of a network with {name}={getattr(info, name)}, but "
        f"--{name}={value} is required."
      )
  output_dir = os.path.abspath(output_dir)
  with files.atomic_folder(output_dir) as folder:
    name = _write_checkpoint(model, info, folder)
    imported = ImportedCheckpoint(os.path.join(output_dir, name), info)
    with files.atomic_write(os.path.join(folder, METADATA)) as file:
      json.dump(imported.metadata(), file, indent=2, ensure_ascii=False)
      file.write("\n")
    with files.atomic_write(os.path.join(folder, GIN_FILE)) as file:
      file.write(_gin(info, output_dir))
    if info.num_classes is not None:
      run_record.write(folder, _experiment(info))
  return imported


def _write_checkpoint(model: keras.Model, info: PretrainedInfo, folder: str) -> str:
  """Writes the variables; returns the name of the checkpoint."""
  content = {"backbone": model}
  if info.num_classes is not None:
    content = {"model": model, "backbone": model.backbone}
  step = tf.Variable(info.global_step or 0, dtype=tf.int64)
  checkpoint = tf.train.Checkpoint(**content, global_step=step)
  manager = tf.train.CheckpointManager(checkpoint, folder, max_to_keep=None)
  return os.path.basename(manager.save(checkpoint_number=info.global_step or 0))


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
  runtime = cfg.RuntimeConfig(
    distribution_strategy="one_device", mixed_precision_dtype="float32"
  )
  return cfg.ExperimentConfig(task=task, runtime=runtime)


def _gin(info: PretrainedInfo, folder: str) -> str:
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
#   mnv2-train --gin_file={os.path.join(folder, GIN_FILE)} \\
#     --model_dir=runs/fine_tuned --gin_params='DATA_DIR = "data/images"'
#
# Required: DATA_DIR. All else is as in gin/fine_tune.gin, and as the weights expect,
# which are found beside this file where the folder was moved.

import mnv2_hpu.registry_imports
include "gin/fine_tune.gin"

{import_record.start_line(folder)}
{bindings}
"""
