"""Plans of NASNet-A and PNASNet-5: which cells there are, and what each one reads.

Papers: arXiv 1707.07012 (figure 4, appendix A) and 1712.00559 (figure 1). Source of the
numbers and of the scopes: `nasnet.py`, `pnasnet.py` and `nasnet_utils.py` of slim.
"""

import dataclasses
from typing import Any, NamedTuple

from mnv2_hpu.errors import UserError, did_you_mean

STEMS = ("cifar", "imagenet")


@dataclasses.dataclass(frozen=True)
class Hparams:
  """Slim's `hparams` of a network, and the constants of its `arg_scope`.

  Attributes:
    family: `nasnet` or `pnasnet`: the kind of cells.
    stem: `imagenet`, of stride 8, or `cifar`, of stride 1.
    num_cells: Number of cells, without stem and reduction cells.
    num_conv_filters: Filters of the first cells; their outputs have 5 or 6 times as
      many channels.
    stem_multiplier: Factor of the channels of the first convolution.
    skip_reduction_layer_input: Whether the cell after a reduction cell reads what the
      reduction cell read as its second input, instead of the first.
    drop_path_keep_prob: Probability at the end of the training that a branch of the
      last cell is kept.
    total_training_steps: Number of steps in which the drop path reaches it.
    filter_scaling_rate: Factor of the filters at each reduction.
    norm_momentum: Momentum of the moving batch statistics.
    norm_epsilon: Epsilon added to the batch variance.
  """

  family: str
  stem: str
  num_cells: int
  num_conv_filters: int
  stem_multiplier: float
  skip_reduction_layer_input: bool
  drop_path_keep_prob: float
  total_training_steps: int
  filter_scaling_rate: float = 2.0
  norm_momentum: float = 0.9997
  norm_epsilon: float = 1e-3


HPARAMS = {
  "nasnet_cifar": Hparams(
    *("nasnet", "cifar", 18, 32, 3.0, False, 0.6, 937_500),
    norm_momentum=0.9,
    norm_epsilon=1e-5,
  ),
  "nasnet_mobile": Hparams("nasnet", "imagenet", 12, 44, 1.0, False, 1.0, 250_000),
  "nasnet_large": Hparams("nasnet", "imagenet", 18, 168, 3.0, True, 0.7, 250_000),
  "pnasnet_mobile": Hparams("pnasnet", "imagenet", 9, 54, 1.0, True, 1.0, 250_000),
  "pnasnet_large": Hparams("pnasnet", "imagenet", 12, 216, 3.0, True, 0.6, 250_000),
}
DEFAULT_IDS = {"nasnet": "nasnet_mobile", "pnasnet": "pnasnet_mobile"}  # by family


def hparams(family: str | None, model_id: str, **changes: Any) -> Hparams:
  """Returns the hparams of a network.

  >>> hparams("nasnet", "nasnet_mobile", num_cells=6).num_cells
  6

  Args:
    family: A key of `DEFAULT_IDS`; None allows all.
    model_id: A key of `HPARAMS`, of that family.
    **changes: Fields of `Hparams` to replace; None keeps the network's own.

  Raises:
    UserError: If the network is unknown, or a value is impossible.
  """
  known = [n for n, v in HPARAMS.items() if family in (None, v.family)]
  if model_id not in known:
    raise UserError(
      f"model_id: {model_id!r} is no network of {family or ' or '.join(DEFAULT_IDS)}. "
      f"{did_you_mean(model_id, known)}"
    )
  given = {name: value for name, value in changes.items() if value is not None}
  values = dataclasses.replace(HPARAMS[model_id], **given)
  _check(values)
  return values


def _check(values: Hparams) -> None:
  """Raises a UserError for what no network can be built from."""
  if values.stem not in STEMS:
    raise UserError(
      f"stem: {values.stem!r} is unknown. {did_you_mean(values.stem, STEMS)}"
    )
  wanted = {
    "num_cells": (3, "a whole number from 3: one cell before and after each reduction"),
    "num_conv_filters": (4, "a whole number from 4"),
    "total_training_steps": (1, "a whole number from 1"),
  }
  for name, (smallest, words) in wanted.items():
    value = getattr(values, name)
    if type(value) is not int or value < smallest:
      raise UserError(f"{name} is {value!r}; it must be {words}.")
  for name in ("stem_multiplier", "filter_scaling_rate"):
    if not getattr(values, name) > 0:
      raise UserError(f"{name} is {getattr(values, name)!r}; it must be above 0.")
  if not 0 < values.drop_path_keep_prob <= 1:
    raise UserError(
      f"drop_path_keep_prob is {values.drop_path_keep_prob!r}; it must be above 0 and "
      "at most 1, which drops nothing."
    )


class Branch(NamedTuple):
  """One side of a combination: an operation on a state of the cell.

  Attributes:
    operation: `separable`, `average`, `maximum` or `none`.
    state: 0 for the cell's input, 1 for the output before it, 2 to 6 for the sums.
    size: Kernel size of a separable convolution; pools have 3.
  """

  operation: str
  state: int
  size: int = 3


class Kind(NamedTuple):
  """What all cells of a kind have in common.

  Attributes:
    combinations: Left and right branch of each of the five sums.
    outputs: States that are concatenated: those that no branch reads, in NASNet's
      normal cell the output before it too.
  """

  combinations: tuple[tuple[Branch, Branch], ...]
  outputs: tuple[int, ...]


def _sep(size: int, state: int) -> Branch:
  return Branch("separable", state, size)


KINDS = {
  "nasnet": Kind(
    (
      (_sep(5, 0), _sep(3, 1)),
      (_sep(5, 1), _sep(3, 1)),
      (Branch("average", 0), Branch("none", 1)),
      (Branch("average", 1), Branch("average", 1)),
      (_sep(3, 0), Branch("none", 0)),
    ),
    (1, 2, 3, 4, 5, 6),
  ),
  "nasnet_reduction": Kind(
    (
      (_sep(5, 0), _sep(7, 1)),
      (Branch("maximum", 0), _sep(7, 1)),
      (Branch("average", 0), _sep(5, 1)),
      (Branch("none", 3), Branch("average", 2)),
      (_sep(3, 2), Branch("maximum", 0)),
    ),
    (3, 4, 5, 6),
  ),
  "pnasnet": Kind(
    (
      (_sep(5, 1), Branch("maximum", 1)),
      (_sep(7, 0), Branch("maximum", 0)),
      (_sep(5, 0), _sep(3, 0)),
      (_sep(3, 4), Branch("maximum", 0)),
      (_sep(3, 1), Branch("none", 0)),
    ),
    (2, 3, 4, 5, 6),
  ),
}


class Cell(NamedTuple):
  """One cell.

  Attributes:
    scope: Slim's scope.
    kind: Key of `KINDS`.
    filters: Channels of each branch.
    stride: 1 or 2.
    level: log2 of the stride of the network up to its output.
    previous: Scope of the second input; empty where the cell reads its input twice.
    is_previous_larger: Whether the second input has twice the first one's size. Slim
      compares widths, which are unknown at free sizes and equal at tiny ones.
  """

  scope: str
  kind: str
  filters: int
  stride: int
  level: int
  previous: str
  is_previous_larger: bool


class Plan(NamedTuple):
  """A network.

  Attributes:
    hparams: What it was made of.
    first: Scope of the first convolution, and scope of its batch norm.
    first_channels: Channels of the first convolution.
    cells: The cells in the order in which they run; each reads the one before it.
  """

  hparams: Hparams
  first: tuple[str, str]
  first_channels: int
  cells: tuple[Cell, ...]

  @property
  def outputs(self) -> dict[int, str]:
    """Scope of the last cell of each level that is no reduction cell, by level."""
    names = {cell.level: cell.scope for cell in self.cells if not is_reduction(cell)}
    return dict(sorted(names.items()))

  @property
  def auxiliary_level(self) -> int:
    """Level of the cell that an auxiliary head reads: before the second reduction."""
    return max(self.outputs) - 1

  def keep_prob(self, number: int) -> float:
    """Returns the probability, at the end, that a branch of a cell is kept.

    Args:
      number: Position of the cell in `cells`.
    """
    dropped = 1 - self.hparams.drop_path_keep_prob
    return 1 - (number + 1) / len(self.cells) * dropped


def is_reduction(cell: Cell) -> bool:
  """Whether it is a cell of NASNet that stands between two others to halve the size."""
  return cell.scope.startswith("reduction_cell")


class _Planner:
  """Appends cells, and finds what each one reads."""

  def __init__(self, values: Hparams) -> None:
    self.values = values
    self.cells: list[Cell] = []
    self.scaling = 1.0
    is_imagenet = values.stem == "imagenet"
    self.first = ("conv0", "conv0_bn") if is_imagenet else ("l1_stem_3x3", "l1_stem_bn")
    # Scope and level of each output, after slim's None.
    self.outputs: list[tuple[str, int]] = [("", 0), (self.first[0], int(is_imagenet))]

  def add(
    self, scope: str, stride: int, previous: tuple[str, int] | None = None
  ) -> None:
    """Appends a cell that reads the last output, and by default the one before it."""
    family = self.values.family
    kind = f"{family}_reduction" if stride > 1 else family
    name, previous_level = previous or self.outputs[-2]
    level = self.outputs[-1][1]
    self.cells.append(
      Cell(
        scope,
        kind if kind in KINDS else family,
        int(self.values.num_conv_filters * self.scaling),
        stride,
        level + stride - 1,
        name,
        bool(name) and previous_level < level,
      )
    )
    self.outputs.append((scope, level + stride - 1))


def make_plan(values: Hparams) -> Plan:
  """Returns the plan of a network.

  >>> plan = make_plan(hparams("nasnet", "nasnet_mobile"))
  >>> plan.outputs
  {2: 'cell_stem_0', 3: 'cell_3', 4: 'cell_7', 5: 'cell_11'}
  >>> plan.cells[2]
  Cell(scope='cell_0', kind='nasnet', filters=44, stride=1, level=3, \
previous='cell_stem_0', is_previous_larger=True)

  Args:
    values: Hparams of the network.
  """
  planner = _Planner(values)
  rate = values.filter_scaling_rate
  channels = values.num_conv_filters
  if values.stem == "imagenet":
    channels = 32
    for number in range(2):
      planner.scaling = rate ** (number - 2)
      planner.add(f"cell_stem_{number}", 2)
  planner.scaling = 1.0
  reductions = [int(i / 3 * values.num_cells) for i in (1, 2)]
  for number in range(values.num_cells):
    before = planner.outputs[-2]
    is_reduced = number in reductions
    planner.scaling *= rate if is_reduced else 1.0
    if is_reduced and values.family == "nasnet":
      planner.add(f"reduction_cell_{reductions.index(number)}", 2)
      previous = before if values.skip_reduction_layer_input else None
      planner.add(f"cell_{number}", 1, previous)
    else:
      planner.add(f"cell_{number}", 2 if is_reduced else 1)
  return Plan(
    values, planner.first, int(channels * values.stem_multiplier), tuple(planner.cells)
  )
