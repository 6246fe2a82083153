"""Reads checkpoints that slim wrote under TensorFlow 1 into MobileNetV2 and NASNet.

Sources: slim's `train_image_classifier.py` for the EMA and optimizers, and
`eval_image_classifier.py`, which reads every model variable, batch statistics
included, from its shadow variable.
"""

import dataclasses
from collections.abc import Collection
from typing import Any

import tensorflow as tf

from mnv2_hpu.checkpoints import paths, restore, slim_architecture, variables
from mnv2_hpu.checkpoints.slim_architecture import EMA
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError, shorten
from mnv2_hpu.modeling.mobilenet_v2 import MobileNetV2
from mnv2_hpu.modeling.nasnet import NASNet

_STEP = variables.GLOBAL_STEP


@dataclasses.dataclass(frozen=True)
class SlimCheckpoint(restore.RestoredCheckpoint):
  """What was read.

  Attributes:
    restored: Names of the checkpoint's variables that the model now holds.
    ignored: Names of its other variables: optimizer slots, the step, the raw weights
      where the EMA ones were read and vice versa, a logits layer left out.
  """

  restored: tuple[str, ...]
  ignored: tuple[str, ...]


def load_slim_checkpoint(
  model: keras.Model, checkpoint: str, *, weights: str = "ema", logits: bool = True
) -> SlimCheckpoint:
  """Sets every variable of a network from a slim checkpoint, or none of them.

  The network that the checkpoint was trained as expects what slim fed it: images in
  [-1, 1] (`dataloaders.inception_preprocessing`) and, with 1001 classes, the
  background as class 0.

  Args:
    model: A `modeling.mobilenet_v2.MobileNetV2` or `modeling.nasnet.NASNet`; a model
      over it whose only other variables are those of a Dense layer, such as Model
      Garden's ClassificationModel, and of an auxiliary classifier, which stays as it is
      where the checkpoint has none; or this project's SSDLite or DeepLab, whose names
      are the Object Detection API's and research/deeplab's.
    checkpoint: Prefix of a checkpoint's files (`model.ckpt-1234`), or a folder: its
      newest checkpoint.
    weights: `"ema"` or `"raw"`.
    logits: Whether to read the logits layer, if the model has one. False leaves all
      variables outside the backbone as they are, whatever they are.

  Returns:
    What was read, and what was not.

  Raises:
    UserError: If there is no checkpoint, if it is corrupt or not slim's, if it holds
      no EMA weights though they are requested, or if a variable is missing in it, of
      another shape than the model's, or unknown.
  """
  restore.check_weights(weights)
  targets = variables.by_slim_name(model, logits)
  path = paths.find_checkpoint(checkpoint)
  with paths.corruption_reported(path):
    reader = tf.train.load_checkpoint(path)
    shapes = reader.get_variable_to_shape_map()
    _check_is_slim(path, shapes, weights, variables.find_backbone(model))
    targets = variables.without_missing_auxiliary(model, targets, shapes)
    names = [_stored_name(name, shapes, model, weights) for name in targets]
    wanted = dict(zip(names, targets.values(), strict=True))
    left_out = variables.optional_names(model, shapes)
    variables.check_fits(path, shapes, wanted, left_out)
    values = [reader.get_tensor(name) for name in names]
    step = reader.get_tensor(_STEP) if _STEP in shapes else None
  variables.check_finite(path, dict(zip(names, values, strict=True)))
  for variable, value in zip(targets.values(), values, strict=True):
    variable.assign(value.reshape(variable.shape))
  return SlimCheckpoint(
    path,
    None if step is None else int(step),
    weights,
    restored=tuple(names),
    ignored=tuple(sorted(set(shapes) - set(names))),
  )


def _stored_name(
  name: str, shapes: Collection[str], model: keras.Model, weights: str
) -> str:
  """Returns where the checkpoint holds a variable."""
  shadow = f"{name}/{EMA}"
  # The Object Detection API averages trainable variables alone.
  is_statistic = name.rpartition("/")[2].startswith("moving_")
  has_none = hasattr(model, "tf1_scope") and is_statistic and shadow not in shapes
  return name if weights == "raw" or has_none else shadow


def read_architecture(checkpoint: str) -> slim_architecture.Architecture:
  """Returns the width, the mode and the classes of a slim checkpoint.

  Args:
    checkpoint: Prefix of a checkpoint's files, or a folder: its newest checkpoint.

  Raises:
    UserError: If there is no checkpoint, if it is corrupt or not slim's, or if its
      shapes are no MobileNetV2's.
  """
  path = paths.find_checkpoint(checkpoint)
  shapes = paths.shapes(path)
  _check_is_slim(path, shapes, "raw")
  try:
    return slim_architecture.infer(shapes)
  except UserError as error:
    raise UserError(f"The checkpoint {path!r} is no whole MobileNetV2. {error}") from (
      error
    )


def _check_is_slim(
  path: str, names: Collection[str], weights: str, backbone: Any = MobileNetV2
) -> None:
  """Refuses a checkpoint of another program.

  Args:
    path: Prefix of its files.
    names: Names of its variables.
    weights: `"ema"` or `"raw"`.
    backbone: Network that is to read it, or its class.
  """
  if backbone.slim_scope:
    what = f"{backbone.slim_scope}/…"
    found = [name for name in names if f"/{backbone.slim_scope}/" in f"/{name}"]
  else:
    wanted = variables.by_slim_name(backbone)
    what = f"{next(iter(wanted))}, nor another of the network"
    found = [name for name in names if name.removesuffix(f"/{EMA}") in wanted]
  if not found:
    scopes = sorted({name.split("/")[0] for name in names})
    network = backbone if isinstance(backbone, type) else type(backbone)
    hint = f"Give a checkpoint of slim's {network.__name__}."
    if restore.GRAPH_KEY in names:
      hint = (
        "It was written by TensorFlow 2's tf.train.Checkpoint, as Model Garden's are: "
        "use it as init_checkpoint as it is."
      )
    elif f"{NASNet.slim_logits}/weights" in names:
      hint = (
        "It is of slim's NASNet or PNASNet, which mnv2_hpu.checkpoints."
        "load_slim_checkpoint reads into a model of nasnet_classification."
      )
    raise UserError(
      f"The checkpoint {path!r} holds no variable {what}, but "
      f"{shorten(scopes) or 'none at all'}. {hint}"
    )
  if weights == "ema" and not any(n.endswith(f"/{EMA}") for n in found):
    raise UserError(
      f"The checkpoint {path!r} holds no EMA weights (<variable>/{EMA}). "
      "Request its raw weights (weights='raw', --weights=raw)."
    )
