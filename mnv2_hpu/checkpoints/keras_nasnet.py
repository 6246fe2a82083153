"""Weights of Keras Applications' NASNetMobile and NASNetLarge into this NASNet.

Source of the names: `nasnet.py` of Keras Applications. With `zero_padded_pools` the
networks are equal; without, pools of stride 2 leave the padding out, as slim's do.
"""

import h5py
import numpy as np

from mnv2_hpu.checkpoints import keras_files, variables
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError, shorten
from mnv2_hpu.modeling import nasnet_plans

# Keras' names of separable branches by (combination, side); the rest have no weights.
_NORMAL = {
  (0, "left"): "left1",
  (0, "right"): "right1",
  (1, "left"): "left2",
  (1, "right"): "right2",
  (4, "left"): "left5",
}
_REDUCTION = {
  (0, "left"): "left1",
  (0, "right"): "right1",
  (1, "right"): "right2",
  (2, "right"): "right3",
  (4, "left"): "left4",
}
# Keras' names of what is beside the branches, by slim's.
_BESIDE = {
  "path1_conv": "adjust_conv_1",
  "path2_conv": "adjust_conv_2",
  "final_path_bn": "adjust_bn",
  "prev_1x1": "adjust_conv_projection",
  "prev_bn": "adjust_bn",
}


def _block_id(cell: nasnet_plans.Cell, num_cells: int) -> str:
  """Returns Keras' name of a cell, of which it numbers `num_cells` in all."""
  kind, _, number = cell.scope.rpartition("_")
  if kind == "cell_stem":
    return f"stem_{int(number) + 1}"
  if kind == "reduction_cell":
    return f"reduce_{(int(number) + 1) * num_cells // 3}"
  return str(int(number) + (int(number) >= num_cells // 3))


def layer_names(plan: nasnet_plans.Plan) -> dict[str, str]:
  """Returns the names of Keras' layers by those of this backbone's, which are slim's.

  >>> plan = nasnet_plans.make_plan(nasnet_plans.hparams(None, "nasnet_mobile"))
  >>> layer_names(plan)["cell_4/comb_iter_0/left/bn_sep_5x5_2"]
  'separable_conv_2_bn_normal_left1_5'

  Args:
    plan: Plan of a NASNet with the ImageNet stem; a layer that it lacks is named too.
  """
  names = {"conv0": "stem_conv1", "conv0_bn": "stem_bn1"}
  for cell in plan.cells:
    block_id = _block_id(cell, plan.hparams.num_cells)
    kind, sides = ("reduction", _REDUCTION) if cell.stride > 1 else ("normal", _NORMAL)
    names[f"{cell.scope}/1x1"] = f"{kind}_conv_1_{block_id}"
    names[f"{cell.scope}/beginning_bn"] = f"{kind}_bn_1_{block_id}"
    for slims, kerass in _BESIDE.items():
      names[f"{cell.scope}/{slims}"] = f"{kerass}_{block_id}"
    for number, branches in enumerate(nasnet_plans.KINDS[cell.kind].combinations):
      for side, branch in zip(("left", "right"), branches, strict=True):
        for i in (1, 2) if branch.operation == "separable" else ():
          scope = f"{cell.scope}/comb_iter_{number}/{side}"
          suffix = f"{branch.size}x{branch.size}_{i}"
          place = f"{kind}_{sides[number, side]}_{block_id}"
          names[f"{scope}/separable_{suffix}"] = f"separable_conv_{i}_{place}"
          names[f"{scope}/bn_sep_{suffix}"] = f"separable_conv_{i}_bn_{place}"
  return names


def load_keras_nasnet(model: keras.Model, source: keras.Model | str) -> None:
  """Sets every variable of a NASNet from one of Keras Applications, or none of them.

  Keras' own networks expect images in [-1, 1], and have no background class.

  Args:
    model: A `modeling.nasnet.NASNet`, whose logits are left as they are if it is below
      a classifier; with `zero_padded_pools` for the function that Keras computes.
    source: A model of Keras Applications, or an HDF5 file of Keras 2 with its weights.

  Raises:
    UserError: If a variable is missing there, or of another shape.
  """
  backbone = variables.find_backbone(model)
  names = layer_names(backbone.plan)
  if isinstance(source, str):
    with h5py.File(source, "r") as file:
      arrays = keras_files.layer_arrays(file)
  else:
    arrays = {
      layer.name: {_leaf(w.name): w.numpy() for w in layer.weights}
      for layer in source.layers
    }
  values, problems = [], []
  for layer in backbone.layers:
    for variable in layer.weights:
      name = names.get(layer.name, layer.name)
      value = arrays.get(name, {}).get(_leaf(variable.name))
      found = "missing" if value is None else list(value.shape)
      if found != variable.shape.as_list():
        problems.append(f"{name} ({found}, not {variable.shape.as_list()})")
      values.append((variable, value))
  if problems:
    raise UserError(
      f"These weights of Keras do not fit the network: {shorten(problems)}. Give "
      "NASNetMobile's to model_id 'nasnet_mobile', NASNetLarge's to 'nasnet_large'."
    )
  for variable, value in values:
    variable.assign(np.asarray(value, np.float32))


def _leaf(name: str) -> str:
  return name.removesuffix(":0").rpartition("/")[2]
