"""Reads checkpoints that slim wrote under TensorFlow 1 into MobileNetV2.

The backbone's layers bear the names of slim's scopes, so that a rule (`slim_name`)
gives the name of each variable in the checkpoint. Sources: slim's `mobilenet.py` for
the scopes, `train_image_classifier.py` for the EMA and optimizers, and
`eval_image_classifier.py`, which reads every model variable, batch statistics
included, from its shadow variable.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence

import tensorflow as tf

from mnv2_hpu.checkpoints import paths, restore, slim_architecture
from mnv2_hpu.checkpoints.slim_architecture import EMA, LOGITS, SCOPE
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError, shorten
from mnv2_hpu.modeling.mobilenet_v2 import MobileNetV2

# Slim's name of a weight, where Keras has another.
_LEAVES = {
  "kernel": "weights",
  "depthwise_kernel": "depthwise_weights",
  "bias": "biases",
}
# What optimizers of TensorFlow 1 keep for each variable: RMSProp, RMSProp_1, …
_SLOT = re.compile("/(Adadelta|Adagrad|Adam|Ftrl|Momentum|RMSProp)(_[0-9])?$")
_GLOBAL_STEP = "global_step"
_NOT_OF_THE_MODEL = {_GLOBAL_STEP, "beta1_power", "beta2_power"}  # the latter: Adam's


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


def slim_name(layer: str, weight: str) -> str:
  """Returns the name that slim gives a weight.

  >>> slim_name("expanded_conv_1/depthwise", "depthwise_kernel")
  'MobilenetV2/expanded_conv_1/depthwise/depthwise_weights'
  >>> slim_name("Conv_1/BatchNorm", "moving_mean")
  'MobilenetV2/Conv_1/BatchNorm/moving_mean'

  Args:
    layer: Name of the backbone's layer, or `LOGITS`.
    weight: Keras' name of one of its weights.
  """
  return f"{SCOPE}/{layer}/{_LEAVES.get(weight, weight)}"


def load_slim_checkpoint(
  model: keras.Model, checkpoint: str, *, weights: str = "ema", logits: bool = True
) -> SlimCheckpoint:
  """Sets every variable of a MobileNetV2 from a slim checkpoint, or none of them.

  The network that the checkpoint was trained as expects what slim fed it: images in
  [-1, 1] (`dataloaders.inception_preprocessing`) and, with 1001 classes, the
  background as class 0.

  Args:
    model: A `modeling.mobilenet_v2.MobileNetV2`, or a model over it whose only other
      variables are those of a Dense layer, such as Model Garden's ClassificationModel.
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
  backbone = _backbone(model)
  targets = _by_slim_name(*((layer, layer.name) for layer in backbone.layers))
  known = {*targets, slim_name(LOGITS, "kernel"), slim_name(LOGITS, "bias")}
  if logits and model is not backbone:
    targets |= _by_slim_name((_logits_layer(model, backbone), LOGITS))
  path = paths.find_checkpoint(checkpoint)
  with paths.corruption_reported(path):
    reader = tf.train.load_checkpoint(path)
    shapes = reader.get_variable_to_shape_map()
    _check_is_slim(path, shapes, weights)
    names = [f"{name}/{EMA}" if weights == "ema" else name for name in targets]
    _check_fits(path, shapes, dict(zip(names, targets.values(), strict=True)), known)
    values = [reader.get_tensor(name) for name in names]
    step = reader.get_tensor(_GLOBAL_STEP) if _GLOBAL_STEP in shapes else None
  for variable, value in zip(targets.values(), values, strict=True):
    variable.assign(value.reshape(variable.shape))
  return SlimCheckpoint(
    path,
    None if step is None else int(step),
    weights,
    restored=tuple(names),
    ignored=tuple(sorted(set(shapes) - set(names))),
  )


def read_architecture(checkpoint: str) -> slim_architecture.Architecture:
  """Returns the width, the mode and the classes of a slim checkpoint.

  Args:
    checkpoint: Prefix of a checkpoint's files, or a folder: its newest checkpoint.

  Raises:
    UserError: If there is no checkpoint, if it is corrupt or not slim's, or if its
      shapes are no MobileNetV2's.
  """
  path = paths.find_checkpoint(checkpoint)
  with paths.corruption_reported(path):
    shapes = tf.train.load_checkpoint(path).get_variable_to_shape_map()
  _check_is_slim(path, shapes, "raw")
  try:
    return slim_architecture.infer(shapes)
  except UserError as error:
    raise UserError(f"The checkpoint {path!r} is no whole MobileNetV2. {error}") from (
      error
    )


def _by_slim_name(*scopes: tuple[keras.layers.Layer, str]) -> dict[str, tf.Variable]:
  """Returns the variables of layers, each given with its scope, by slim's names."""
  return {
    slim_name(scope, variable.name.removesuffix(":0").rpartition("/")[2]): variable
    for layer, scope in scopes
    for variable in layer.weights
  }


def _backbone(model: keras.Model) -> MobileNetV2:
  found = [m for m in (model, *model.submodules) if isinstance(m, MobileNetV2)]
  if len(found) != 1:
    raise UserError(
      f"The model {model.name!r} holds {len(found)} networks of the class "
      "mnv2_hpu.modeling.mobilenet_v2.MobileNetV2; a slim checkpoint fits a model with "
      "one. Build it with task.model.backbone.type=mobilenet_v2."
    )
  return found[0]


def _logits_layer(model: keras.Model, backbone: MobileNetV2) -> keras.layers.Dense:
  heads = [layer for layer in model.layers if layer.weights and layer is not backbone]
  if [isinstance(h, keras.layers.Dense) and h.use_bias for h in heads] == [True]:
    return heads[0]
  raise UserError(
    f"Besides its backbone, the model {model.name!r} has variables in "
    f"{', '.join(layer.name for layer in heads) or 'no layer'}; slim's logits fit "
    "one Dense layer with a bias. logits=False reads the backbone alone."
  )


def _is_known(name: str, variables: Collection[str]) -> bool:
  """Whether slim's training writes such a name."""
  variable = _SLOT.sub("", name.removesuffix(f"/{EMA}"))
  return name in _NOT_OF_THE_MODEL or variable in variables


def _check_is_slim(path: str, names: Collection[str], weights: str) -> None:
  of_network = [name for name in names if name.startswith(f"{SCOPE}/")]
  if not of_network:
    scopes = sorted({name.split("/")[0] for name in names})
    hint = (
      "It was written by TensorFlow 2's tf.train.Checkpoint, as Model Garden's are: "
      "use it as init_checkpoint as it is."
      if restore.GRAPH_KEY in names
      else "Give a checkpoint of slim's MobileNetV2."
    )
    raise UserError(
      f"The checkpoint {path!r} holds no variable {SCOPE}/…, but "
      f"{shorten(scopes) or 'none at all'}. {hint}"
    )
  if weights == "ema" and not any(n.endswith(f"/{EMA}") for n in of_network):
    raise UserError(
      f"The checkpoint {path!r} holds no EMA weights (<variable>/{EMA}). "
      "Request its raw weights (weights='raw', --weights=raw)."
    )


def _check_fits(
  path: str,
  shapes: Mapping[str, Sequence[int]],
  wanted: Mapping[str, tf.Variable],
  known: Collection[str],
) -> None:
  """Refuses a checkpoint that lacks, misshapes or adds a variable.

  Args:
    path: Prefix of the checkpoint's files.
    shapes: Shapes of its variables by name.
    wanted: Variables of the model by their names in the checkpoint.
    known: Names of every variable of slim's network.
  """
  missing = [name for name in wanted if name not in shapes]
  misshapen = [
    name
    for name, variable in wanted.items()
    if name in shapes and list(shapes[name]) != _slim_shape(variable)
  ]
  problems = {
    "missing": missing,
    "of another shape": [
      f"{name} is {list(shapes[name])}, the model's {_slim_shape(wanted[name])}"
      for name in misshapen
    ],
    "unknown": [name for name in sorted(shapes) if not _is_known(name, known)],
  }
  if any(problems.values()):
    found = [f"{len(n)} {kind}: {shorten(n)}" for kind, n in problems.items() if n]
    hint = _hint(shapes, [*missing, *misshapen])
    raise UserError(
      f"The checkpoint {path!r} does not fit the model. Variables {'; '.join(found)}. "
      f"{hint}"
    )


def _slim_shape(variable: tf.Variable) -> list[int]:
  """Returns the shape of a variable in slim: the logits' kernel is a convolution's."""
  shape = variable.shape.as_list()
  return [1, 1, *shape] if len(shape) == 2 else shape


def _hint(shapes: Mapping[str, Sequence[int]], unfit: Sequence[str]) -> str:
  """Returns what would fit, given the names that are missing or misshapen."""
  if not unfit:
    return "The network was not slim's MobileNetV2, or was changed for quantization."
  raw = (name.removesuffix(f"/{EMA}") for name in unfit if name not in shapes)
  if any(name in shapes for name in raw):
    return "It lacks the EMA of some variables: request the raw weights."
  try:
    architecture = slim_architecture.infer(shapes)
  except UserError as error:
    return str(error)
  hint = f"The checkpoint is of a network with {architecture}."
  if all(name.startswith(f"{SCOPE}/{LOGITS}/") for name in unfit):
    hint += " logits=False reads all but the logits layer."
  return hint
