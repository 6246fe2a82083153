"""Which MobileNetV2 a slim checkpoint holds, inferred from its variables' shapes."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import block_specs

SCOPE = block_specs.SLIM_SCOPE
LOGITS = block_specs.SLIM_LOGITS
EMA = "ExponentialMovingAverage"  # the shadow variable of `x` is `x/` and this

PAPER_WIDTHS = (1.0, 1.4, 1.3, 0.75, 0.5, 0.35)
_GRID = 2000  # widths tried besides are multiples of 1 / _GRID


@dataclasses.dataclass(frozen=True)
class Architecture:
  """Choices that make up the network.

  Attributes:
    width_multiplier: Factor of the channels of every layer.
    finegrain_classification_mode: Whether widths below 1 keep 1280 last channels.
    num_classes: Number of logits; None where the checkpoint has no logits layer.
  """

  width_multiplier: float
  finegrain_classification_mode: bool
  num_classes: int | None

  def __str__(self) -> str:
    """Returns it as arguments, for messages."""
    fields = dataclasses.asdict(self).items()
    return ", ".join(f"{name}={value}" for name, value in fields)


def layer_channels(
  width_multiplier: float,
  finegrain: bool,
  divisor: int = block_specs.CHANNEL_DIVISOR,
  min_channels: int | None = None,
) -> list[int]:
  """Returns output channels of the first convolution, the blocks and the last one.

  Args:
    width_multiplier: Factor of the channels of every layer.
    finegrain: Whether widths below 1 keep 1280 last channels.
    divisor: Positive integer whose multiples the channels are.
    min_channels: Fewest channels of a layer; None is the divisor.
  """
  network = block_specs.build_specs(
    width_multiplier, None, finegrain, min_channels, divisor
  )
  blocks = [block.channels for block in network.blocks]
  return [network.first_channels, *blocks, network.last_channels]


def width_candidates(last_block_channels: int) -> Iterator[float]:
  """Yields widths that may give the last block these channels, likeliest first."""
  yield from PAPER_WIDTHS
  channels = block_specs.BLOCK_SPECS[-1].channels
  # Rounding moves the channels by less than 9: by 4, or by 8 just above 8.
  low, high = ((last_block_channels + margin) * _GRID / channels for margin in (-9, 9))
  grid = [k / _GRID for k in range(max(1, math.floor(low)), math.ceil(high))]
  yield from sorted(grid, key=lambda width: (len(str(width)), width))


def infer(shapes: Mapping[str, Sequence[int]]) -> Architecture:
  """Infers width, mode and classes from the channels of a checkpoint's kernels.

  Rounding gives neighbouring widths the same channels, and so the same network; of
  them a width of the paper is returned, or else the one of the fewest digits.

  >>> channels = [16, 8, *[8] * 2, *[16] * 3, *[24] * 4, *[32] * 3, *[56] * 3, 112]
  >>> names = ["Conv", "expanded_conv/project"]
  >>> names += [f"expanded_conv_{block}/project" for block in range(1, 17)]
  >>> names += ["Conv_1", "Logits/Conv2d_1c_1x1"]
  >>> kernels = zip(names, [*channels, 1280, 1001], strict=True)
  >>> print(infer({f"MobilenetV2/{n}/weights": [1, 1, 8, c] for n, c in kernels}))
  width_multiplier=0.35, finegrain_classification_mode=True, num_classes=1001

  Args:
    shapes: Shapes of the checkpoint's variables by name; raw or EMA ones suffice.

  Raises:
    UserError: If a kernel is missing, or if no width gives these channels.
  """
  kernels = {layer: _kernel_shape(shapes, layer) for layer in _layers()}
  missing = [layer for layer, shape in kernels.items() if not shape]
  if missing:
    raise UserError(
      f"The width of the network cannot be inferred: there is no {SCOPE}/{missing[0]}"
      f"/weights{f', nor {len(missing) - 1} others' if missing[1:] else ''}."
    )
  channels = [shape[-1] for shape in kernels.values()]
  logits = _kernel_shape(shapes, LOGITS)
  for width in width_candidates(channels[-2]):
    for finegrain in (True, False):
      if layer_channels(width, finegrain) == channels:
        return Architecture(width, finegrain, logits[-1] if logits else None)
  raise UserError(
    "No width multiplier gives these channels of the first convolution, the 17 blocks "
    f"and the last convolution: {', '.join(map(str, channels))}. At width 1.0 they "
    f"are {', '.join(map(str, layer_channels(1.0, True)))}."
  )


@dataclasses.dataclass(frozen=True)
class DeepLabArchitecture:
  """Choices that make up a network of research/deeplab, above its backbone.

  Attributes:
    aspp: As `modeling.deeplab.DeepLab` takes it.
    decoder: As `modeling.deeplab.DeepLab` takes it.
    num_classes: Number of classes.
  """

  aspp: str
  decoder: str
  num_classes: int

  __str__ = Architecture.__str__


def infer_deeplab(shapes: Mapping[str, Sequence[int]]) -> DeepLabArchitecture | None:
  """Infers the network from a checkpoint's variables; None where it is no DeepLab.

  >>> print(infer_deeplab(
  ...   {"logits/semantic/weights": [1, 1, 256, 21], "aspp1_pointwise/weights": []}
  ... ))
  aspp=separable, decoder=none, num_classes=21

  Args:
    shapes: Shapes of a checkpoint's variables by name.
  """
  logits = shapes.get("logits/semantic/weights")
  if not logits:
    return None

  def kind(separable: str, ordinary: str) -> str:
    kinds = {"separable": separable, "ordinary": ordinary}
    found = [kind for kind, scope in kinds.items() if f"{scope}/weights" in shapes]
    return found[0] if found else "none"

  return DeepLabArchitecture(
    aspp=kind("aspp1_pointwise", "aspp1"),
    decoder=kind(
      "decoder/decoder_conv0_pointwise", "decoder/decoder_conv0/decoder_conv0_1"
    ),
    num_classes=logits[-1],
  )


def infer_backbone(shapes: Mapping[str, Sequence[int]]) -> tuple[float, int]:
  """Infers width and channel divisor of a backbone without its last convolution.

  Args:
    shapes: Shapes of the checkpoint's variables by name.

  Raises:
    UserError: If a kernel is missing, or if no width gives these channels.
  """
  channels = read_channels(shapes)[:-1]
  for width in width_candidates(channels[-1]):
    for divisor in (block_specs.CHANNEL_DIVISOR, 1):
      if layer_channels(width, True, divisor)[:-1] == channels:
        return width, divisor
  raise UserError(
    "No width multiplier gives these channels of the first convolution and the 17 "
    f"blocks (0 is a missing one): {', '.join(map(str, channels))}."
  )


def read_channels(shapes: Mapping[str, Sequence[int]]) -> list[int]:
  """Returns what `layer_channels` does, of a checkpoint; 0 for a missing kernel.

  Args:
    shapes: Shapes of its variables by slim's name.
  """
  kernels = (_kernel_shape(shapes, layer) for layer in _layers())
  return [shape[-1] if shape else 0 for shape in kernels]


def _layers() -> list[str]:
  """Returns the scopes whose kernels `layer_channels` counts."""
  blocks = [block.name for block in block_specs.build_specs(1.0, None, True).blocks]
  return ["Conv", *(f"{block}/project" for block in blocks), "Conv_1"]


def _kernel_shape(shapes: Mapping[str, Sequence[int]], layer: str) -> Sequence[int]:
  name = f"{SCOPE}/{layer}/weights"
  return shapes.get(name) or shapes.get(f"{name}/{EMA}") or ()
