"""The variables of a backbone by slim's names, and whether a file fits them.

The backbone's layers bear the names of slim's scopes, so that a rule gives the name of
each variable. A backbone that slim has too says so by three attributes: `slim_scope`,
before the scopes of its layers; `slim_logits`, the scope of the classifier, and
`slim_auxiliary`, that of an auxiliary one; empty where there is none.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from mnv2_hpu.checkpoints import slim_architecture
from mnv2_hpu.checkpoints.slim_architecture import EMA, LOGITS, SCOPE
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError, shorten

# Slim's name of a weight, where Keras has another.
_LEAVES = {
  "kernel": "weights",
  "depthwise_kernel": "depthwise_weights",
  "pointwise_kernel": "pointwise_weights",
  "bias": "biases",
}
# What optimizers of TensorFlow 1 keep for each variable: RMSProp, RMSProp_1, …
_SLOT = re.compile("/(Adadelta|Adagrad|Adam|Ftrl|Momentum|RMSProp)(_[0-9])?$")
# What a classifier's checkpoint holds beyond the backbone of another network.
_CLASSIFIERS_OWN = (
  *(f"{LOGITS}/{leaf}" for leaf in ("weights", "biases")),
  "Conv_1/weights",
  *(
    f"Conv_1/BatchNorm/{leaf}"
    for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
  ),
)
GLOBAL_STEP = "global_step"
_NOT_OF_THE_MODEL = {GLOBAL_STEP, "beta1_power", "beta2_power"}  # the latter: Adam's


def by_slim_name(model: keras.Model, logits: bool = True) -> dict[str, tf.Variable]:
  """Returns the variables of a model by slim's names.

  For example `MobilenetV2/expanded_conv_1/depthwise/depthwise_weights`,
  `MobilenetV2/Conv_1/BatchNorm/moving_mean`.

  Args:
    model: A backbone of this project; a model over it whose only other variables are
      those of a Dense layer and of an auxiliary classifier; or one whose `tf1_scope`
      gives the scope of each of its and its backbone's layers by name.
    logits: Whether to return the variables outside of the backbone too.

  Raises:
    UserError: If the model is another one.
  """
  backbone = find_backbone(model)
  if hasattr(model, "tf1_scope"):
    heads = [layer for layer in model.layers if layer is not backbone]
    layers = [*backbone.layers, *(heads if logits else ())]
    return _of_scopes((layer, model.tf1_scope(layer.name)) for layer in layers)
  layers = [(layer, layer.name) for layer in backbone.layers]
  if logits and model is not backbone:
    auxiliary = [layer for layer in model.layers if _is_auxiliary(layer, backbone)]
    layers += [(layer, layer.name) for layer in auxiliary]
    layers.append((_logits_layer(model, backbone), backbone.slim_logits))
  prefix = f"{backbone.slim_scope}/" if backbone.slim_scope else ""
  return _of_scopes((layer, f"{prefix}{name}") for layer, name in layers)


def _of_scopes(
  scopes: Iterable[tuple[keras.layers.Layer, str]],
) -> dict[str, tf.Variable]:
  """Returns the variables of layers, each given with its scope, by slim's names."""
  return {
    f"{scope}/{_leaf(variable.name.removesuffix(':0').rpartition('/')[2])}": variable
    for layer, scope in scopes
    for variable in layer.weights
  }


def _leaf(weight: str) -> str:
  return _LEAVES.get(weight, weight)


def find_backbone(model: keras.Model) -> keras.Model:
  """Returns the backbone of a model, which may be the model.

  Raises:
    UserError: If there is none that slim has too, or more than one.
  """
  found = [m for m in (model, *model.submodules) if hasattr(m, "slim_scope")]
  if len(found) != 1:
    raise UserError(
      f"The model {model.name!r} holds {len(found)} networks of the class "
      "mnv2_hpu.modeling.mobilenet_v2.MobileNetV2 or nasnet.NASNet; a slim checkpoint "
      "fits a model with one. Build it with task.model.backbone.type=mobilenet_v2, "
      "nasnet or pnasnet."
    )
  return found[0]


def optional_names(model: keras.Model, stored: Iterable[str]) -> set[str]:
  """Returns names that a checkpoint may hold though the model has no place for them.

  Args:
    model: As `by_slim_name` takes it.
    stored: Names in the checkpoint.
  """
  if hasattr(model, "tf1_scope"):
    return set(by_slim_name(model))
  backbone = find_backbone(model)
  names = {f"{backbone.slim_logits}/{leaf}" for leaf in ("weights", "biases")}
  if scope := backbone.slim_auxiliary:
    of_scope = (name for name in stored if name.startswith(f"{scope}/"))
    names |= {_SLOT.sub("", name.removesuffix(f"/{EMA}")) for name in of_scope}
  return names


def without_missing_auxiliary(
  model: keras.Model, targets: Mapping[str, tf.Variable], stored: Iterable[str]
) -> dict[str, tf.Variable]:
  """Returns variables but an auxiliary classifier's, where a checkpoint has none of it.

  Args:
    model: As `by_slim_name` takes it.
    targets: Its variables by slim's names.
    stored: Names in the checkpoint.
  """
  scope = getattr(find_backbone(model), "slim_auxiliary", "")
  if not scope or any(name.startswith(f"{scope}/") for name in stored):
    return dict(targets)
  return {n: v for n, v in targets.items() if not n.startswith(f"{scope}/")}


def _is_auxiliary(layer: keras.layers.Layer, backbone: keras.Model) -> bool:
  scope = backbone.slim_auxiliary
  return bool(scope) and layer.name.startswith(f"{scope}/")


def _logits_layer(model: keras.Model, backbone: keras.Model) -> keras.layers.Dense:
  heads = [
    layer
    for layer in model.layers
    if layer.weights and layer is not backbone and not _is_auxiliary(layer, backbone)
  ]
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


def check_fits(
  path: str,
  shapes: Mapping[str, Sequence[int]],
  wanted: Mapping[str, tf.Variable],
  left_out: Collection[str] = (),
) -> None:
  """Refuses a checkpoint that lacks, misshapes or adds a variable.

  Args:
    path: Prefix of the checkpoint's files.
    shapes: Shapes of its variables by name.
    wanted: Variables of the model by their names in the checkpoint.
    left_out: Names of others of the model, which it may have.
  """
  known = {name.removesuffix(f"/{EMA}") for name in wanted} | {*left_out}
  known |= {f"{SCOPE}/{leaf}" for leaf in _CLASSIFIERS_OWN}
  missing = [name for name in wanted if name not in shapes]
  misshapen = [
    name
    for name, variable in wanted.items()
    if name in shapes and list(shapes[name]) not in _slim_shapes(variable)
  ]
  problems = {
    "missing": missing,
    "of another shape": [
      f"{name} is {list(shapes[name])}, the model's {_slim_shapes(wanted[name])[0]}"
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


def check_finite(path: str, values: Mapping[str, np.ndarray]) -> None:
  """Refuses values that are NaN or infinite.

  Args:
    path: File, or prefix of files, for messages.
    values: Arrays by name.
  """
  broken = [name for name, value in values.items() if not np.isfinite(value).all()]
  if broken:
    raise UserError(
      f"{path!r} holds values that are NaN or infinite: {shorten(broken)}."
    )


def _slim_shapes(variable: tf.Variable) -> list[list[int]]:
  """Returns the shapes that slim may give a variable: its logits may be convolved."""
  shape = variable.shape.as_list()
  return [[1, 1, *shape], shape] if len(shape) == 2 else [shape]


def _hint(shapes: Mapping[str, Sequence[int]], unfit: Sequence[str]) -> str:
  """Returns what would fit, given the names that are missing or misshapen."""
  if not unfit:
    return "The network was not slim's MobileNetV2, or was changed for quantization."
  raw = (name.removesuffix(f"/{EMA}") for name in unfit if name not in shapes)
  if any(name in shapes for name in raw):
    return "It lacks the EMA of some variables: request the raw weights."
  deeplab = slim_architecture.infer_deeplab(shapes)
  if deeplab:
    return f"The checkpoint is of a DeepLab network with {deeplab}."
  if not any(f"{SCOPE}/" in name for name in unfit):
    return "Use the model_id, the input size and num_classes it was trained with."
  try:
    architecture = slim_architecture.infer(shapes)
  except UserError as error:
    return str(error)
  hint = f"The checkpoint is of a network with {architecture}."
  if all(name.startswith(f"{SCOPE}/{LOGITS}/") for name in unfit):
    hint += " logits=False reads all but the logits layer."
  return hint
