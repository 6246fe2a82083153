"""The layers of MobileNetV2, in plain numbers: the paper's table 2 and slim's rules."""

from typing import NamedTuple


class Row(NamedTuple):
  """One row of table 2 of the paper (arXiv 1801.04381).

  Attributes:
    expansion: t, how many times wider a block is inside than its input.
    channels: c, of each block's output at width 1.0.
    repeats: n, the number of blocks.
    stride: s, of the first block; the others have stride 1.
  """

  expansion: int
  channels: int
  repeats: int
  stride: int


FIRST_CHANNELS = 32  # of the 3x3 convolution of stride 2 before the blocks
ROWS = (
  #   t    c  n  s
  Row(1, 16, 1, 1),
  Row(6, 24, 2, 2),
  Row(6, 32, 3, 2),
  Row(6, 64, 4, 2),
  Row(6, 96, 3, 1),
  Row(6, 160, 3, 2),
  Row(6, 320, 1, 1),
)
LAST_CHANNELS = 1280  # of the 1x1 convolution after the blocks


class Block(NamedTuple):
  """One inverted residual, after width and output stride are known.

  Attributes:
    name: slim's scope.
    expansion: how many times wider it is inside than its input.
    channels: of its output.
    stride: of its depthwise convolution.
    dilation_rate: of its depthwise convolution.
    input_level: log2 of the stride of its input.
    level: log2 of the stride of its output.
  """

  name: str
  expansion: int
  channels: int
  stride: int
  dilation_rate: int
  input_level: int
  level: int


class Plan(NamedTuple):
  """The whole network: channels of the first convolution, blocks, of the last one."""

  first_channels: int
  blocks: tuple[Block, ...]
  last_channels: int


def round_channels(channels: float) -> int:
  """Rounds to a multiple of 8 as slim does: at least 8, and not below 90%.

  >>> [round_channels(c * 0.35) for c in (16, 24, 32, 64, 96, 160, 320)]
  [8, 8, 16, 24, 32, 56, 112]
  """
  rounded = max(8, int(channels + 4) // 8 * 8)
  return rounded if rounded >= 0.9 * channels else rounded + 8


def _blocks(width_multiplier: float, output_stride: int | None) -> tuple[Block, ...]:
  blocks: list[Block] = []
  level = 1  # behind the first convolution
  rate = 1
  for row in ROWS:
    for repeat in range(row.repeats):
      row_stride = row.stride if repeat == 0 else 1
      dilated = 2**level == output_stride
      stride = 1 if dilated else row_stride
      input_level, level = level, level + stride - 1  # strides are 1 or 2
      blocks.append(
        Block(
          name=f"expanded_conv_{len(blocks)}" if blocks else "expanded_conv",
          expansion=row.expansion,
          channels=round_channels(row.channels * width_multiplier),
          stride=stride,
          dilation_rate=rate,
          input_level=input_level,
          level=level,
        )
      )
      # After the block: it still reads an undilated input. Model Garden's MobileNet
      # multiplies before, and so dilates this block too.
      rate *= row_stride if dilated else 1
  return tuple(blocks)


def plan(
  width_multiplier: float,
  output_stride: int | None,
  finegrain_classification_mode: bool,
) -> Plan:
  """Lays out the network, as slim's `mobilenet_v2.py` and `mobilenet.py` do.

  >>> blocks = plan(1.0, 16, True).blocks
  >>> [(block.name, block.stride, block.dilation_rate) for block in blocks[12:15]]
  [('expanded_conv_12', 1, 1), ('expanded_conv_13', 1, 1), ('expanded_conv_14', 1, 2)]

  Args:
    width_multiplier: of the channels of every layer, above 0.
    output_stride: 8, 16, 32 or None: strides beyond it turn into dilation.
    finegrain_classification_mode: keep the last channels at widths below 1.
  """
  keeps_last = finegrain_classification_mode and width_multiplier < 1
  return Plan(
    first_channels=round_channels(FIRST_CHANNELS * width_multiplier),
    blocks=_blocks(width_multiplier, output_stride),
    last_channels=round_channels(
      LAST_CHANNELS * (1 if keeps_last else width_multiplier)
    ),
  )
