"""Writes a detector's weights as a run's folder: to evaluate, export, train from."""

import dataclasses
import os

from official.core import config_definitions as cfg

from mnv2_hpu.checkpoints import detectors, import_record
from mnv2_hpu.checkpoints.detectors import DetectorInfo
from mnv2_hpu.checkpoints.import_record import GIN_FILE
from mnv2_hpu.configs import object_detection as exp_cfg
from mnv2_hpu.configs.recipe import SSDLITE
from mnv2_hpu.core.imported import folder


@dataclasses.dataclass(frozen=True)
class ImportedDetector:
  """What was written.

  Attributes:
    path: Prefix of the files.
    info: What was read.
  """

  path: str
  info: DetectorInfo

  def summary(self) -> str:
    """Returns lines on what was read, what it expects, how to use it."""
    info, run_dir = self.info, os.path.dirname(self.path)
    step = "" if info.global_step is None else f", step {info.global_step}"
    return "\n".join(
      [
        f"{self.path}: the {info.weights} weights of {info.path} ({info.source}{step})",
        f"  network   SSDLite, width_multiplier={info.width_multiplier}, "
        f"num_classes={info.num_classes} without the background",
        f"  images    {info.image_size} x {info.image_size}, pixels from -1 to 1; "
        "another size (image_size) is the same network with other anchors",
        f"  train     mnv2-train --experiment={SSDLITE} "
        f"--gin_file={os.path.join(run_dir, GIN_FILE)} …",
        f"  use       mnv2-predict --model={run_dir} …; mnv2-evaluate and mnv2-export "
        "take it as --model_dir",
      ]
    )


def import_detector(
  checkpoint: str, output_dir: str, weights: str, required: folder.Required
) -> ImportedDetector:
  """Writes an SSDLite of the TF1 Object Detection API as the folder of a run.

  Args:
    checkpoint: As `checkpoints.load_detector` takes it.
    output_dir: Folder to write, whole or not at all; absent or empty.
    weights: `"ema"`, where there are any, or `"raw"`.
    required: What the weights must be of.

  Raises:
    UserError: If the weights cannot be read, or are of another network.
  """
  model, info = detectors.load_detector(checkpoint, weights)
  required.check(info)
  output_dir = os.path.abspath(output_dir)
  path = folder.write(
    output_dir,
    {"model": model, **model.checkpoint_items},
    info.global_step,
    dataclasses.asdict(info),
    _gin(info, output_dir),
    _experiment(info),
  )
  return ImportedDetector(path, info)


def _experiment(info: DetectorInfo) -> cfg.ExperimentConfig:
  """Returns an experiment that evaluates and exports as the weights expect."""
  task = exp_cfg.ObjectDetectionTask()
  task.model.override(
    {
      "num_classes": info.num_classes,
      "input_size": [info.image_size, info.image_size, 3],
      "backbone": {"mobilenet_v2": {"width_multiplier": info.width_multiplier}},
    }
  )
  for data in (task.train_data, task.validation_data):
    data.override({"global_batch_size": exp_cfg.DetectionRecipe.eval_batch_size})
  return cfg.ExperimentConfig(task=task, runtime=folder.FLOAT32)


def _gin(info: DetectorInfo, output_dir: str) -> str:
  """Returns a gin file that trains from the weights, with what they expect."""
  values = {
    "width_multiplier": info.width_multiplier,
    "norm_epsilon": info.norm_epsilon,
    "image_size": info.image_size,
    "init_checkpoint_modules": "fitting",
  }
  bindings = "\n".join(f"{SSDLITE}.{k} = {v!r}" for k, v in values.items())
  return f"""\
# From weights of {info.source} to your own classes; written by mnv2-import-checkpoint.
#
#   mnv2-train --experiment={SSDLITE} \\
#     --gin_file={os.path.join(output_dir, GIN_FILE)} \\
#     --model_dir=runs/fine_tuned --gin_params='DATA_DIR = "data/boxes"'
#
# Required: DATA_DIR. All else is as in gin/ssdlite_coco.gin, and as the weights expect,
# which are found beside this file where the folder was moved.

import mnv2_hpu.registry_imports
include "gin/ssdlite_coco.gin"

{import_record.start_line(output_dir)}
{SSDLITE}.init_checkpoint = %START
{bindings}
"""
