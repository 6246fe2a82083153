"""The layers of MobileNetV2, in plain numbers: the paper's table 2 and slim's rules."""

from typing import NamedTuple


class BlockSpec(NamedTuple):
  """One row of table 2 of the paper (arXiv 1801.04381).

  Attributes:
    expansion: t, the ratio of the channels inside a block to those of its input.
    channels: c, the output channels of each block at width 1.0.
    repeats: n, the number of blocks.
    stride: s, the stride of the first block; the others have stride 1.
  """

  expansion: int
  channels: int
  repeats: int
  stride: int


SLIM_SCOPE = "MobilenetV2"  # scope of all variables in slim
SLIM_LOGITS = "Logits/Conv2d_1c_1x1"  # scope of the classifier, below it

FIRST_CHANNELS = (
  32  # output channels of the 3x3 convolution of stride 2 before the blocks
)
BLOCK_SPECS = (
  #   t    c  n  s
  BlockSpec(1, 16, 1, 1),
  BlockSpec(6, 24, 2, 2),
  BlockSpec(6, 32, 3, 2),
  BlockSpec(6, 64, 4, 2),
  BlockSpec(6, 96, 3, 1),
  BlockSpec(6, 160, 3, 2),
  BlockSpec(6, 320, 1, 1),
)
LAST_CHANNELS = 1280  # output channels of the 1x1 convolution after the blocks


class Block(NamedTuple):
  """One inverted residual at a given width and output stride.

  Attributes:
    name: Name scope in slim.
    expansion: Ratio of the channels inside the block to those of its input.
    channels: Number of output channels.
    stride: Stride of the depthwise convolution.
    dilation_rate: Dilation rate of the depthwise convolution.
    input_level: log2 of the stride of the block's input.
    level: log2 of the stride of the block's output.
  """

  name: str
  expansion: int
  channels: int
  stride: int
  dilation_rate: int
  input_level: int
  level: int


class NetworkSpec(NamedTuple):
  """The whole network: output channels of its two convolutions, and its blocks."""

  first_channels: int
  blocks: tuple[Block, ...]
  last_channels: int


CHANNEL_DIVISOR = 8  # slim's; research/deeplab has 1 at widths other than 1


def round_channels(
  channels: float, min_channels: int | None = None, divisor: int = CHANNEL_DIVISOR
) -> int:
  """Rounds to a multiple as slim does: to a minimum, and not below 90%.

  >>> [round_channels(c * 0.35) for c in (16, 24, 32, 64, 96, 160, 320)]
  [8, 8, 16, 24, 32, 56, 112]
  >>> [round_channels(c * 0.35, divisor=1) for c in (16, 24, 32, 64, 96, 160, 320)]
  [6, 8, 11, 22, 34, 56, 112]

  Args:
    channels: Number of channels, a fraction included.
    min_channels: Fewest channels; None is the divisor.
    divisor: Positive integer whose multiples are allowed.
  """
  rounded = int(channels + divisor / 2) // divisor * divisor
  rounded = max(divisor if min_channels is None else min_channels, rounded)
  return rounded if rounded >= 0.9 * channels else rounded + divisor


def _build_blocks(
  width_multiplier: float, output_stride: int | None, rounding: tuple[int | None, int]
) -> tuple[Block, ...]:
  blocks: list[Block] = []
  level, dilation_rate = 1, 1  # after the first convolution
  for spec in BLOCK_SPECS:
    for spec_stride in (spec.stride, *[1] * (spec.repeats - 1)):
      dilated = 2**level == output_stride
      stride = 1 if dilated else spec_stride
      blocks.append(
        Block(
          name=f"expanded_conv_{len(blocks)}" if blocks else "expanded_conv",
          expansion=spec.expansion,
          channels=round_channels(spec.channels * width_multiplier, *rounding),
          stride=stride,
          dilation_rate=dilation_rate,
          input_level=level,
          level=level + stride - 1,  # strides are 1 or 2
        )
      )
      level = blocks[-1].level
      # After the block, whose own input is not dilated yet. Model Garden's MobileNet
      # multiplies before, and so dilates this block too.
      dilation_rate *= spec_stride if dilated else 1
  return tuple(blocks)


def build_specs(
  width_multiplier: float,
  output_stride: int | None,
  finegrain_classification_mode: bool,
  min_channels: int | None = None,
  channel_divisor: int = CHANNEL_DIVISOR,
) -> NetworkSpec:
  """Returns the specs of a network, as slim's `mobilenet_v2.py` and `mobilenet.py`.

  >>> blocks = build_specs(1.0, 16, True).blocks
  >>> [(block.name, block.stride, block.dilation_rate) for block in blocks[12:15]]
  [('expanded_conv_12', 1, 1), ('expanded_conv_13', 1, 1), ('expanded_conv_14', 1, 2)]

  Args:
    width_multiplier: Factor above 0 of the channels of every layer.
    output_stride: 8, 16, 32 or None: later strides are replaced by dilation.
    finegrain_classification_mode: Whether widths below 1 keep the last channels.
    min_channels: Fewest channels of a layer; None is the divisor. 16 under SSDLite.
    channel_divisor: Number whose multiples the channels are; inside of a block they
      are multiples of 8 whatever it is.
  """
  rounding = (min_channels, channel_divisor)
  keeps_last = finegrain_classification_mode and width_multiplier < 1
  last_width = 1 if keeps_last else width_multiplier
  return NetworkSpec(
    first_channels=round_channels(FIRST_CHANNELS * width_multiplier, *rounding),
    blocks=_build_blocks(width_multiplier, output_stride, rounding),
    last_channels=round_channels(LAST_CHANNELS * last_width, *rounding),
  )
