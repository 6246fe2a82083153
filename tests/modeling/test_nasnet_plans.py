"""Plans of the five networks: cells, channels, sizes and drop path; none is built."""

import json
import math

import golden_recipes
import numpy as np
import pytest

from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import nasnet_plans
from mnv2_hpu.modeling.nasnet_plans import HPARAMS, KINDS, hparams, make_plan

GOLDEN = json.loads((golden_recipes.GOLDEN / "nasnet.json").read_text())


def plan(model_id, **changes):
  return make_plan(hparams(None, model_id, **changes))


@pytest.mark.parametrize("model_id", HPARAMS)
def test_hparams_are_slims(model_id):
  slims = GOLDEN[model_id]["hparams"]
  ours = vars(HPARAMS[model_id])
  shared = slims.keys() & ours.keys()
  assert len(shared) == 7
  assert {name: ours[name] for name in shared} == {n: slims[n] for n in shared}
  assert [ours["norm_epsilon"]] == GOLDEN[model_id]["batch_norm"]


@pytest.mark.parametrize("model_id", HPARAMS)
@pytest.mark.fidelity
def test_sizes_and_channels_of_all_cells_are_slims(model_id, fidelity):
  network = plan(model_id)
  size = GOLDEN[model_id]["image_size"]
  if network.hparams.stem == "imagenet":
    size = (size - 3) // 2 + 1  # the first convolution pads nothing
    size = math.ceil(size / 4)  # the stem's two cells
  found = {}
  for cell in network.cells:
    if not cell.scope.startswith("cell_stem"):
      size = math.ceil(size / cell.stride)
    found[cell.scope] = [size, size, len(KINDS[cell.kind].outputs) * cell.filters]
  slims = GOLDEN[model_id]["inference"]["endpoints"]
  expected = {name.lower(): shape for name, shape in slims.items() if "Cell" in name}
  found = {name: shape for name, shape in found.items() if "stem" not in name}
  fidelity(
    f"{model_id}, shapes of {len(expected)} cells",
    "slim's",
    "equal" if found == expected else "other",
    0.0 if found == expected else 1.0,
    "0",
  )
  assert found == expected


def norm(channels):
  """Trainable and all parameters of a batch norm."""
  return np.array([2, 4]) * channels


def kernel(*shape):
  return np.array([1, 1]) * math.prod(shape)


def cell_parameters(cell, channels, previous):
  """Counts one cell by the paper's description; returns also its output's channels."""
  filters = cell.filters
  total = kernel(channels, filters) + norm(filters)
  if cell.previous and (cell.is_previous_larger or previous != filters):
    total += kernel(previous, filters) + norm(filters)
    previous = filters
  elif not cell.previous:
    previous = channels
  states = [filters, previous, *[filters] * 5]
  kind = KINDS[cell.kind]
  for branch in (branch for pair in kind.combinations for branch in pair):
    width, k = states[branch.state], branch.size
    if branch.operation == "separable":
      total += kernel(k, k, width) + kernel(width, filters) + norm(filters)
      total += kernel(k, k, filters) + kernel(filters, filters) + norm(filters)
    elif width != filters or (
      branch.operation == "none" and cell.stride > 1 and branch.state < 2
    ):
      total += kernel(width, filters) + norm(filters)
  for state in kind.outputs:
    if states[state] != filters:
      total += kernel(states[state], filters) + norm(filters)
  return total, len(kind.outputs) * filters


def count(network):
  """Counts trainable and all parameters of a backbone from its plan."""
  total = kernel(3, 3, 3, network.first_channels) + norm(network.first_channels)
  channels = {network.first[0]: network.first_channels, "": 0}
  last = network.first[0]
  for cell in network.cells:
    added, width = cell_parameters(cell, channels[last], channels[cell.previous])
    total, last = total + added, cell.scope
    channels[last] = width
  return tuple(int(number) for number in total)


@pytest.mark.parametrize("model_id", HPARAMS)
@pytest.mark.fidelity
def test_parameter_counts_are_slims(model_id, fidelity):
  network, golden = plan(model_id), GOLDEN[model_id]
  classes = golden["num_classes"]
  last, level = network.cells[-1], network.auxiliary_level
  head = (len(KINDS[last.kind].outputs) * last.filters + 1) * classes
  found = [number + head for number in count(network)]
  slims = [golden["inference"][f"{kind}_params"] for kind in ("trainable", "model")]
  fidelity(
    f"{model_id}, parameters and parameters with statistics",
    ", ".join(f"{number:,}" for number in slims),
    ", ".join(f"{number:,}" for number in found),
    abs(found[1] - slims[1]),
    "0",
  )
  assert found == slims
  (cell,) = (c for c in network.cells if c.scope == network.outputs[level])
  side = golden["inference"]["endpoints"][cell.scope.capitalize()][0]
  side = (side - 5) // 3 + 1
  channels = len(KINDS[cell.kind].outputs) * cell.filters
  auxiliary = kernel(channels, 128) + norm(128) + kernel(side, side, 128, 768)
  auxiliary = auxiliary + norm(768) + 769 * classes
  assert int(auxiliary[0]) == golden["aux_params"]


@pytest.mark.parametrize(
  ("model_id", "levels", "auxiliary"),
  [
    ("nasnet_cifar", {0: "cell_5", 1: "cell_11", 2: "cell_17"}, 1),
    ("nasnet_mobile", {2: "cell_stem_0", 3: "cell_3", 4: "cell_7", 5: "cell_11"}, 4),
    ("pnasnet_large", {2: "cell_stem_0", 3: "cell_3", 4: "cell_7", 5: "cell_11"}, 4),
  ],
)
def test_levels_end_before_each_reduction(model_id, levels, auxiliary):
  network = plan(model_id)
  assert network.outputs == levels
  assert network.auxiliary_level == auxiliary


def test_the_cell_after_a_reduction_reads_what_slims_flag_says():
  def second_input(skip):
    network = plan("nasnet_mobile", skip_reduction_layer_input=skip)
    cells = {cell.scope: cell for cell in network.cells}
    assert cells["reduction_cell_0"].previous == "cell_2"
    assert cells["cell_4"].is_previous_larger
    return cells["cell_4"].previous

  assert (second_input(False), second_input(True)) == ("cell_3", "cell_2")


@pytest.mark.parametrize(
  ("model_id", "cell", "expected"),
  [
    # keep = 1 - (cell + 1) / cells * (1 - keep_prob), stems and reductions counted.
    ("nasnet_cifar", "cell_0", 1 - 1 / 20 * 0.4),
    ("nasnet_cifar", "cell_17", 0.6),
    ("nasnet_large", "cell_stem_1", 1 - 2 / 22 * 0.3),
    ("nasnet_large", "reduction_cell_0", 1 - 9 / 22 * 0.3),
    ("pnasnet_large", "cell_0", 1 - 3 / 14 * 0.4),
    ("pnasnet_mobile", "cell_8", 1.0),
  ],
)
def test_drop_path_grows_with_the_cell(model_id, cell, expected):
  network = plan(model_id)
  number = [cell.scope for cell in network.cells].index(cell)
  assert network.keep_prob(number) == pytest.approx(expected)


@pytest.mark.parametrize(
  ("family", "model_id", "changes", "message"),
  [
    ("pnasnet", "nasnet_mobile", {}, "'nasnet_mobile' is no network of pnasnet"),
    (None, "nasnet_moblie", {}, "nasnet_moblie.*nasnet_mobile"),
    (None, "nasnet_cifar", {"num_cells": 2}, "num_cells is 2; .* from 3"),
    (None, "nasnet_cifar", {"stem": "mnist"}, "stem: 'mnist' is unknown.*cifar"),
    (
      None,
      "nasnet_cifar",
      {"stem_multiplier": 0.0},
      "stem_multiplier is 0.0; .* above",
    ),
    (
      None,
      "nasnet_cifar",
      {"drop_path_keep_prob": 0.0},
      "keep_prob is 0.0; .* above 0",
    ),
    (None, "nasnet_cifar", {"total_training_steps": 0}, "steps is 0; .* from 1"),
  ],
)
def test_impossible_networks_are_refused(family, model_id, changes, message):
  with pytest.raises(UserError, match=message):
    nasnet_plans.hparams(family, model_id, **changes)
