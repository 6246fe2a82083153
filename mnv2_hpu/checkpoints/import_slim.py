"""Writes a slim checkpoint as one to train from, with metadata of what it expects."""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from official.vision.modeling import classification_model

from mnv2_hpu import __version__, files
from mnv2_hpu.checkpoints import slim
from mnv2_hpu.checkpoints.slim_architecture import Architecture
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling.mobilenet_v2 import MobileNetV2

METADATA = "import.json"

IMAGENET_CLASSES = 1001  # slim's: the background and ImageNet's 1,000
# Of slim's `inception_preprocessing.py`; Model Garden's own inputs differ in the range.
PREPROCESSING = {
  "name": "inception",
  "range": [-1.0, 1.0],
  "central_fraction": 0.875,
  "resize": "bilinear, without half-pixel centres",
}


@dataclasses.dataclass(frozen=True)
class ImportedCheckpoint:
  """What was written.

  Attributes:
    path: Prefix of the files.
    source: What was read.
    architecture: Network of the weights.
  """

  path: str
  source: slim.SlimCheckpoint
  architecture: Architecture

  @property
  def has_background(self) -> bool:
    """Whether class 0 is slim's background class."""
    return self.architecture.num_classes == IMAGENET_CLASSES

  def summary(self) -> str:
    """Returns lines on what was read, what it expects, how to use it."""
    source, classes = self.source, self.architecture.num_classes
    labels = f"{classes} classes, numbered as when it was trained"
    if classes is None:
      labels = "no logits layer"
    elif self.has_background:
      labels = "0 is the background, ImageNet's classes are 1 to 1000"
    modules = "backbone" if classes is None else "all (or backbone)"
    return f"""\
{self.path}: the {source.weights} weights of {source.path}, step {source.global_step}
  read      {len(source.restored)} variables, {len(source.ignored)} ignored
  network   {self.architecture}
  images    must be scaled to [-1, 1] (preprocessing 'inception'); Model Garden's own
            inputs are normalized by mean and standard deviation instead
  labels    {labels}
  use       task.init_checkpoint={self.path}, task.init_checkpoint_modules={modules}"""

  def metadata(self, content: Sequence[str]) -> dict[str, Any]:
    """Returns the content of import.json; `content` names what the files hold."""
    return {
      "source": self.source.path,
      "global_step": self.source.global_step,
      "weights": self.source.weights,
      "num_restored": len(self.source.restored),
      "num_ignored": len(self.source.ignored),
      "network": dataclasses.asdict(self.architecture),
      "content": list(content),
      "preprocessing": PREPROCESSING,
      "labels": {
        "background_class": 0 if self.has_background else None,
        "first_class": 1 if self.has_background else None,
      },
      "tool_version": __version__,
    }


def import_checkpoint(
  checkpoint: str,
  output_dir: str,
  *,
  weights: str = "ema",
  width_multiplier: float | None = None,
  num_classes: int | None = None,
) -> ImportedCheckpoint:
  """Writes a slim checkpoint as one of Model Garden's.

  Args:
    checkpoint: Prefix of slim's files, or their folder.
    output_dir: Folder to write, whole or not at all; absent or empty.
    weights: `"ema"` or `"raw"`.
    width_multiplier: Width that the checkpoint must have; None infers it.
    num_classes: Number of classes that it must have; None infers it.

  Raises:
    UserError: If the folder is in use, or the checkpoint does not fit (`slim`).
  """
  if os.path.exists(output_dir) and (
    not os.path.isdir(output_dir) or os.listdir(output_dir)
  ):
    raise UserError(
      f"--output_dir={output_dir!r} exists and is not an empty folder. Give another "
      "one, or remove it."
    )
  inferred = slim.read_architecture(checkpoint)
  architecture = dataclasses.replace(
    inferred,
    width_multiplier=width_multiplier or inferred.width_multiplier,
    num_classes=num_classes or inferred.num_classes,
  )
  model = build_model(architecture)
  source = slim.load_slim_checkpoint(model, checkpoint, weights=weights)
  content = {"backbone": model}
  if architecture.num_classes is not None:
    content = {"model": model, "backbone": model.backbone}
  with files.atomic_folder(os.path.abspath(output_dir)) as folder:
    manager = tf.train.CheckpointManager(
      tf.train.Checkpoint(**content), folder, max_to_keep=None
    )
    written = manager.save(checkpoint_number=source.global_step or 0)
    path = os.path.join(os.path.abspath(output_dir), os.path.basename(written))
    imported = ImportedCheckpoint(path, source, architecture)
    with files.atomic_write(os.path.join(folder, METADATA)) as file:
      json.dump(imported.metadata(sorted(content)), file, indent=2)
      file.write("\n")
  return imported


def build_model(architecture: Architecture) -> keras.Model:
  """Builds the classification model, or without classes the backbone alone."""
  backbone = MobileNetV2(
    architecture.width_multiplier,
    finegrain_classification_mode=architecture.finegrain_classification_mode,
  )
  if architecture.num_classes is None:
    return backbone
  return classification_model.ClassificationModel(backbone, architecture.num_classes)
