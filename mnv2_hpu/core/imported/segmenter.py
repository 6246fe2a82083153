"""Writes a segmenter's weights as a run's folder: to evaluate, export, train from."""

import dataclasses
import os

from official.core import config_definitions as cfg

from mnv2_hpu.checkpoints import import_record, pretrained, segmenters
from mnv2_hpu.checkpoints.import_record import GIN_FILE
from mnv2_hpu.checkpoints.segmenters import SegmenterInfo
from mnv2_hpu.configs import semantic_segmentation as exp_cfg
from mnv2_hpu.configs.recipe import DEEPLABV3
from mnv2_hpu.core.imported import folder

# Fields of the backbone that gin and the recorded experiment take from the weights.
_BACKBONE = (
  "width_multiplier",
  "channel_divisor",
  "output_stride",
  "use_explicit_padding",
)


@dataclasses.dataclass(frozen=True)
class ImportedSegmenter:
  """What was written.

  Attributes:
    path: Prefix of the files.
    info: What was read.
  """

  path: str
  info: SegmenterInfo

  def summary(self) -> str:
    """Returns lines on what was read, what it expects, how to use it."""
    info, gin = self.info, os.path.join(os.path.dirname(self.path), GIN_FILE)
    step = "" if info.global_step is None else f", step {info.global_step}"
    return "\n".join(
      [
        f"{self.path}: the weights of {info.path} ({info.source}{step})",
        f"  network   {info.architecture}, "
        + ", ".join(f"{name}={getattr(info, name)}" for name in _BACKBONE),
        "  images    pixels from -1 to 1, of any size",
        f"  train     mnv2-train --experiment={DEEPLABV3} --gin_file={gin} …",
      ]
    )


def import_segmenter(
  checkpoint: str, output_dir: str, required: folder.Required
) -> ImportedSegmenter:
  """Writes a segmenter of any source as the folder of a run.

  Args:
    checkpoint: As `checkpoints.load_segmenter` takes it.
    output_dir: Folder to write, whole or not at all; absent or empty.
    required: What the weights must be of.

  Raises:
    UserError: If the weights cannot be read, or are of another network.
  """
  model, info = segmenters.load_segmenter(checkpoint)
  required.check(info)
  backbone = model.backbone
  if info.source == "huggingface":  # with the convolution that a classifier needs
    backbone, _ = pretrained.load_pretrained(checkpoint)
  output_dir = os.path.abspath(output_dir)
  path = folder.write(
    output_dir,
    {"model": model, "backbone": backbone},
    info.global_step,
    dataclasses.asdict(info),
    _gin(info, output_dir),
    _experiment(info),
  )
  return ImportedSegmenter(path, info)


def _experiment(info: SegmenterInfo) -> cfg.ExperimentConfig:
  """Returns an experiment that evaluates and exports as the weights expect."""
  task = exp_cfg.SemanticSegmentationTask()
  task.model.override(
    {
      **dataclasses.asdict(info.architecture),
      "backbone": {"mobilenet_v2": {n: getattr(info, n) for n in _BACKBONE}},
      "norm_activation": {"norm_epsilon": info.norm_epsilon},
    }
  )
  for data in (task.train_data, task.validation_data):
    data.override({"global_batch_size": exp_cfg.SegmentationRecipe.eval_batch_size})
  return cfg.ExperimentConfig(task=task, runtime=folder.FLOAT32)


def _gin(info: SegmenterInfo, output_dir: str) -> str:
  """Returns a gin file that trains from the weights, with what they expect."""
  values = {name: getattr(info, name) for name in _BACKBONE}
  values |= {
    "aspp": info.architecture.aspp,
    "decoder": info.architecture.decoder,
    "norm_epsilon": info.norm_epsilon,
    "init_checkpoint_modules": "fitting",
  }
  bindings = "\n".join(f"{DEEPLABV3}.{k} = {v!r}" for k, v in values.items())
  return f"""\
# From weights of {info.source} to your own classes; written by mnv2-import-checkpoint.
#
#   mnv2-train --experiment={DEEPLABV3} \\
#     --gin_file={os.path.join(output_dir, GIN_FILE)} \\
#     --model_dir=runs/fine_tuned --gin_params='DATA_DIR = "data/masks"'
#
# Required: DATA_DIR. All else is as in gin/deeplabv3_voc.gin, and as the weights
# expect, which are found beside this file where the folder was moved.

import mnv2_hpu.registry_imports
include "gin/deeplabv3_voc.gin"

{import_record.start_line(output_dir)}
{DEEPLABV3}.init_checkpoint = %START
{bindings}
"""
