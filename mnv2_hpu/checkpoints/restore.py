"""Reads the weights of a training checkpoint, EMA or raw, into a model.

A checkpoint of Model Garden's trainer holds `model`, `optimizer`, `global_step` and
`backbone`; the EMA weights are slots of the optimizer. They are found through the
checkpoint's object graph, so that no optimizer need be built: neither its kind nor its
schedule matters.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2 as graph_pb2

from mnv2_hpu.checkpoints.paths import corruption_reported, find_checkpoint
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError, did_you_mean, shorten

WEIGHTS = ("ema", "raw")
GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"  # what TensorFlow 2's checkpoints hold

_VALUE = "VARIABLE_VALUE"
_EMA_SLOT = "average"  # `official.modeling.optimization.ExponentialMovingAverage`
# What Model Garden's BestCheckpointExporter and EMACheckpointing call the checkpoints
# that they write while raw and EMA weights are swapped.
_WRITTEN_SWAPPED = ("best_ckpt", "average_weights")


class BrokenWeightsError(UserError):
  """A checkpoint holds NaN or infinity."""


@dataclasses.dataclass(frozen=True)
class RestoredCheckpoint:
  """What was read.

  Attributes:
    path: Prefix of the checkpoint's files.
    global_step: Training steps done when it was written; None where not recorded.
    weights: `"ema"` or `"raw"`.
  """

  path: str
  global_step: int | None
  weights: str


def check_weights(weights: str) -> None:
  """Raises a UserError if `weights` is none of `WEIGHTS`."""
  if weights not in WEIGHTS:
    raise UserError(
      f"weights is {weights!r}; allowed are {' and '.join(WEIGHTS)}. "
      f"{did_you_mean(weights, WEIGHTS)}"
    )


def preferred_weights(checkpoint: str) -> str:
  """Returns `"ema"` where a checkpoint holds EMA weights, or else `"raw"`.

  Args:
    checkpoint: Prefix of a checkpoint's files, or a folder: its newest checkpoint.

  Raises:
    UserError: If there is no checkpoint, or it is corrupt.
  """
  path = find_checkpoint(checkpoint)
  with corruption_reported(path):
    return "ema" if _ObjectGraph(path).shadow_variables() else "raw"


def check_init_checkpoint(path: str) -> None:
  """Raises a UserError if `task.init_checkpoint` is no checkpoint of TensorFlow 2."""
  try:
    with corruption_reported(path):
      _ObjectGraph(find_checkpoint(path))
  except UserError as error:
    raise UserError(f"init_checkpoint is {path!r}: {error}") from error


def restore_weights(
  model: keras.Model, checkpoint: str, weights: str = "ema"
) -> RestoredCheckpoint:
  """Sets every variable of a model from a training checkpoint, or none of them.

  A checkpoint that was written while raw and EMA weights were swapped, as `best_ckpt`
  is, is read accordingly. Variables of which the run kept no EMA (batch statistics,
  where `trainable_weights_only` was set) are read as they are, as in the run's own
  evaluation.

  Args:
    model: Network, built.
    checkpoint: Prefix of a checkpoint's files, or a folder: its newest checkpoint.
    weights: `"ema"` or `"raw"`.

  Returns:
    What was read.

  Raises:
    UserError: If there is no checkpoint, if it is corrupt, if it holds no EMA weights
      though they are requested, or if a variable of the model is missing in it, of
      another shape, NaN or infinite.
  """
  check_weights(weights)
  path = find_checkpoint(checkpoint)
  with corruption_reported(path):
    content = _ObjectGraph(path)
    nodes = _match(content, "model", model, model.variables)
    shadows = content.shadow_variables()
    if weights == "ema" and not shadows:
      raise UserError(
        f"The checkpoint {path!r} holds no EMA weights: the run had "
        "ema_decay = 0. Request its raw weights (--weights=raw)."
      )
    # Written while swapped: `model` holds the EMA, and the slots the raw weights.
    take_slot = (weights == "ema") != content.is_swapped()
    values = [
      content.value(shadows.get(node, node) if take_slot else node) for node in nodes
    ]
    global_step = content.scalar("global_step")
  _check_values(path, model.variables, values)
  for variable, value in zip(model.variables, values, strict=True):
    variable.assign(value)
  return RestoredCheckpoint(path, global_step, weights)


def restore_start(
  model: keras.Model,
  checkpoint: str,
  modules: str,
  optional: Sequence[tf.Variable] = (),
) -> str:
  """Sets the weights that a training of another task starts from.

  They are the EMA weights where the checkpoint holds some: those that were evaluated.

  Args:
    model: Network with a `backbone`, built.
    checkpoint: Prefix of a checkpoint's files, or a folder: its newest checkpoint. It
      was written by a training, or by `mnv2-import-checkpoint`.
    modules: `"all"`; `"backbone"`; or `"fitting"`: all, but above the backbone only
      what has this network's shapes.
    optional: Variables that are initialized where the checkpoint has none of them.

  Returns:
    A line on what was read.

  Raises:
    UserError: If there is no checkpoint, if it is corrupt or does not fit.
  """
  path = find_checkpoint(checkpoint)
  with corruption_reported(path):
    content = _ObjectGraph(path)
    has_head = "model" in content.children()
    is_whole = modules == "all" or (modules == "fitting" and has_head)
    name, part = ("model", model) if is_whole else ("backbone", model.backbone)
    unlike = _unlike_head(content, model) if is_whole and modules == "fitting" else {}
    absent = {id(v) for v in optional} - set(content.match(name, part))
    variables = [v for v in part.variables if id(v) not in {*unlike, *absent}]
    nodes = _match(content, name, part, variables)
    shadows = {} if content.is_swapped() else content.shadow_variables()
    values = [content.value(shadows.get(node, node)) for node in nodes]
  _check_values(path, variables, values)
  for variable, value in zip(variables, values, strict=True):
    for of_replica in getattr(variable, "values", (variable,)):  # on this rank alone
      of_replica.assign(value)
  notes = [f"{'EMA ' * bool(content.shadow_variables())}weights of {path}: {name}"]
  if modules == "fitting" and not has_head:
    notes.append("it has no head, so this network's is initialized")
  if unlike:
    notes.append(
      f"{len(unlike)} variables above the backbone are initialized: "
      + shorten(list(unlike.values()), 2)
    )
  return f"starts from the {'; '.join(notes)}"


def _unlike_head(content: "_ObjectGraph", model: keras.Model) -> dict[int, str]:
  """Returns why variables above the backbone are left out, by their `id`."""
  of_backbone = {id(variable) for variable in model.backbone.variables}
  node_of = content.match("model", model)
  unlike = {}
  for variable in model.variables:
    if id(variable) in of_backbone:
      continue
    node, here = node_of.get(id(variable)), list(variable.shape)
    there = None if node is None else list(content.value(node).shape)
    if there != here:
      unlike[id(variable)] = f"{variable.name} is {there} there, {here} here"
  return unlike


class _ObjectGraph:
  """A checkpoint's objects and values."""

  def __init__(self, path: str) -> None:
    self.path = path
    self._reader = tf.train.load_checkpoint(path)
    if not self._reader.has_tensor(GRAPH_KEY):
      raise UserError(
        f"The checkpoint {path!r} was not written by TensorFlow 2's "
        "tf.train.Checkpoint. One of slim's is imported by mnv2-import-checkpoint."
      )
    self._graph = graph_pb2.TrackableObjectGraph()
    self._graph.ParseFromString(self._reader.get_tensor(GRAPH_KEY))

  def children(self, node: int = 0) -> dict[str, int]:
    """Returns the ids of the objects that a node refers to, by name."""
    return {c.local_name: c.node_id for c in self._graph.nodes[node].children}

  def value(self, node: int) -> np.ndarray:
    """Returns the value of a variable."""
    (key,) = (
      attribute.checkpoint_key
      for attribute in self._graph.nodes[node].attributes
      if attribute.name == _VALUE
    )
    return self._reader.get_tensor(key)

  def scalar(self, *names: str) -> int | None:
    """Returns the integer at a path from the root; None where there is none."""
    node = 0
    for name in names:
      if name not in self.children(node):
        return None
      node = self.children(node)[name]
    return int(self.value(node))

  def shadow_variables(self) -> Mapping[int, int]:
    """Returns the id of each variable's EMA slot by the id of the variable."""
    return {
      slot.original_variable_node_id: slot.slot_variable_node_id
      for node in self._graph.nodes
      for slot in node.slot_variables
      if slot.slot_name == _EMA_SLOT
    }

  def match(self, name: str, part: keras.Model) -> dict[int, int]:
    """Returns the ids here of the objects of a model, by their `id`.

    Args:
      name: Name under which the checkpoint's root holds the model.
      part: Model, built.
    """
    root = tf.train.Checkpoint(**{name: part})
    matched = tf.train.CheckpointView(self.path).match(root)
    return {id(trackable): node for node, trackable in matched.items()}

  def is_swapped(self) -> bool:
    """Whether it was written while raw and EMA weights were swapped.

    This project's optimizer records it; a checkpoint by Model Garden's own is known by
    its name.
    """
    swapped = self.scalar("optimizer", "swapped")
    if swapped is None:
      return os.path.basename(self.path).startswith(_WRITTEN_SWAPPED)
    return bool(swapped)


def _match(
  content: _ObjectGraph,
  name: str,
  model: keras.Model,
  variables: Sequence[tf.Variable],
) -> list[int]:
  """Returns the id in the checkpoint of each of some variables of a model.

  Args:
    content: The checkpoint.
    name: Name under which its root holds the model.
    model: The model.
    variables: Some or all of its variables.
  """
  if name not in content.children():
    raise UserError(
      f"The checkpoint {content.path!r} is not one of Model Garden's trainer: it holds "
      f"{sorted(content.children())}, but no {name!r}."
    )
  node_of = content.match(name, model)
  missing = [v.name for v in variables if id(v) not in node_of]
  if missing:
    raise UserError(
      f"{len(missing)} of {len(variables)} variables of the model are not in the "
      f"checkpoint {content.path!r}: {shorten(missing)}. It belongs to another "
      "network; use the configuration that it was trained with (params.yaml beside it)."
    )
  return [node_of[id(v)] for v in variables]


def _check_values(
  path: str, variables: Sequence[tf.Variable], values: Sequence[np.ndarray]
) -> None:
  differing = [
    f"{variable.name} is {list(variable.shape)} in the model, {list(value.shape)} in "
    "the checkpoint"
    for variable, value in zip(variables, values, strict=True)
    if tuple(variable.shape) != value.shape
  ]
  if differing:
    raise UserError(
      f"{len(differing)} variables do not fit the checkpoint {path!r}: "
      f"{shorten(differing)}. Width or number of classes differ; use the configuration "
      "that it was trained with (params.yaml beside it)."
    )
  broken = [
    variable.name
    for variable, value in zip(variables, values, strict=True)
    if not np.isfinite(value).all()
  ]
  if broken:
    raise BrokenWeightsError(
      f"The checkpoint {path!r} holds values that are NaN or infinite: "
      f"{shorten(broken)}. Use an earlier one."
    )
