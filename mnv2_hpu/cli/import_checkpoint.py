"""Turns a checkpoint of slim's MobileNetV2 (TensorFlow 1) into one to train from.

Example, with the files that slim publishes for width 1.0:

  mnv2-import-checkpoint --checkpoint=mobilenet_v2_1.0_224.ckpt --output_dir=imported

Width, fine-grained mode and number of classes are told from the checkpoint. What is
written serves as `task.init_checkpoint` of any experiment over the backbone
mobilenet_v2: with `init_checkpoint_modules` `backbone`, or `all` where the checkpoint
has a logits layer. import.json beside it says how images and labels must be prepared.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from typing import Any

from mnv2_hpu.cli import process

process.set_up()

import tensorflow as tf  # noqa: E402
from absl import flags  # noqa: E402
from official.core import task_factory  # noqa: E402
from official.vision.configs import backbones as upstream_backbones  # noqa: E402

import mnv2_hpu  # noqa: E402
from mnv2_hpu.checkpoints import restore, slim  # noqa: E402
from mnv2_hpu.checkpoints.slim_architecture import Architecture  # noqa: E402
from mnv2_hpu.cli import main as cli_main  # noqa: E402
from mnv2_hpu.compat import keras  # noqa: E402
from mnv2_hpu.configs import backbones  # noqa: E402
from mnv2_hpu.configs import image_classification as exp_cfg  # noqa: E402
from mnv2_hpu.errors import UserError  # noqa: E402

NOTE = "import.json"

IMAGENET_CLASSES = 1001  # slim's: the background and ImageNet's 1,000
# Of slim's `inception_preprocessing.py`; Model Garden's own inputs differ in the range.
PREPROCESSING = {
  "name": "inception",
  "range": [-1.0, 1.0],
  "central_fraction": 0.875,
  "resize": "bilinear, without half-pixel centres",
}


def define_flags() -> None:
  """Defines the flags."""
  flags.DEFINE_string(
    "checkpoint", None, "Prefix of slim's files, or their folder.", required=True
  )
  flags.DEFINE_string(
    "output_dir", None, "Folder to write; there must be none yet.", required=True
  )
  flags.DEFINE_enum(
    "weights", "ema", restore.WEIGHTS, "The averaged weights, or the raw ones."
  )
  flags.DEFINE_float(
    "width_multiplier", None, "That the checkpoint must have; told from it."
  )
  flags.DEFINE_integer(
    "num_classes", None, "That the checkpoint must have; told from it."
  )


def build_model(architecture: Architecture) -> keras.Model:
  """Builds the classification model, or without classes the backbone alone."""
  config = exp_cfg.ImageClassificationModel(
    backbone=upstream_backbones.Backbone(
      type="mobilenet_v2",
      mobilenet_v2=backbones.MobileNetV2(
        width_multiplier=architecture.width_multiplier,
        finegrain_classification_mode=architecture.finegrain_classification_mode,
      ),
    )
  )
  if architecture.num_classes is not None:
    config.num_classes = architecture.num_classes
  task = task_factory.get_task(exp_cfg.ImageClassificationTask(model=config))
  model = task.build_model()
  return model.backbone if architecture.num_classes is None else model


def import_checkpoint(
  checkpoint: str, output_dir: str, *, weights: str, architecture: Architecture
) -> tuple[str, slim.SlimCheckpoint]:
  """Writes a slim checkpoint as one of Model Garden's.

  Args:
    checkpoint: prefix of slim's files, or their folder.
    output_dir: folder to write (aside, then renamed); absent or empty.
    weights: "ema" or "raw".
    architecture: of the network in the checkpoint; without classes, the logits are
      left out.

  Returns:
    Prefix of the files written, and what was read.

  Raises:
    UserError: if the folder is in use, or the checkpoint does not fit (`slim`).
  """
  if os.path.exists(output_dir) and (
    not os.path.isdir(output_dir) or os.listdir(output_dir)
  ):
    raise UserError(
      f"--output_dir={output_dir!r} exists and is not an empty folder. Give another "
      "one, or remove it."
    )
  model = build_model(architecture)
  read = slim.load_slim_checkpoint(model, checkpoint, weights=weights)
  has_logits = architecture.num_classes is not None
  content = (
    {"model": model, "backbone": model.backbone} if has_logits else {"backbone": model}
  )
  output_dir = os.path.abspath(output_dir)
  aside = f"{output_dir}.partial.{os.getpid()}"
  os.makedirs(aside)
  try:
    manager = tf.train.CheckpointManager(
      tf.train.Checkpoint(**content), aside, max_to_keep=None
    )
    written = manager.save(checkpoint_number=read.global_step or 0)
    with open(os.path.join(aside, NOTE), "w", encoding="utf-8") as file:
      json.dump(describe(read, architecture, sorted(content)), file, indent=2)
      file.write("\n")
    os.replace(aside, output_dir)
  finally:
    shutil.rmtree(aside, ignore_errors=True)  # gone where it was renamed
  return os.path.join(output_dir, os.path.basename(written)), read


def describe(
  read: slim.SlimCheckpoint, architecture: Architecture, content: Sequence[str]
) -> dict[str, Any]:
  """Returns the content of import.json."""
  has_background = architecture.num_classes == IMAGENET_CLASSES
  return {
    "source": read.path,
    "global_step": read.global_step,
    "weights": read.weights,
    "num_restored": len(read.restored),
    "num_ignored": len(read.ignored),
    "network": dataclasses.asdict(architecture),
    "content": list(content),
    "preprocessing": PREPROCESSING,
    "labels": {
      "background_class": 0 if has_background else None,
      "first_class": 1 if has_background else None,
    },
    "tool_version": mnv2_hpu.__version__,
  }


def summary(path: str, read: slim.SlimCheckpoint, architecture: Architecture) -> str:
  """Returns the lines to print: what was read, what it expects, how to use it."""
  classes = architecture.num_classes
  labels = {
    None: "no logits layer",
    IMAGENET_CLASSES: "0 is the background, ImageNet's classes are 1 to 1000",
  }.get(classes, f"{classes} classes, numbered as when it was trained")
  modules = "backbone" if classes is None else "all (or backbone)"
  return f"""\
{path}: the {read.weights} weights of {read.path}, step {read.global_step}
  read      {len(read.restored)} variables, {len(read.ignored)} ignored
  network   {architecture}
  images    must be scaled to [-1, 1] (preprocessing 'inception'); Model Garden's own
            inputs are normalised by mean and deviation instead
  labels    {labels}
  use       task.init_checkpoint={path}, task.init_checkpoint_modules={modules}"""


def main(argv: Sequence[str]) -> int:
  """Imports the checkpoint that the flags name and prints what it is."""
  del argv
  values = flags.FLAGS
  expected = {
    name: values[name].value
    for name in ("width_multiplier", "num_classes")
    if values[name].value is not None
  }
  architecture = dataclasses.replace(
    slim.read_architecture(values.checkpoint), **expected
  )
  path, read = import_checkpoint(
    values.checkpoint,
    values.output_dir,
    weights=values.weights,
    architecture=architecture,
  )
  print(summary(path, read, architecture))
  return 0


def entry_point() -> None:
  """The console script `mnv2-import-checkpoint`."""
  mnv2_hpu.register()
  define_flags()
  cli_main.run(main)


if __name__ == "__main__":
  entry_point()
