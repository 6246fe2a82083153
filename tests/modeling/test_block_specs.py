"""The laid out network against slim's own graph."""

import json

import golden_recipes
import pytest

from mnv2_hpu.modeling import block_specs

ARCH = json.loads((golden_recipes.GOLDEN / "arch.json").read_text())
WIDTHS = [
  (width, mode) for width, modes in ARCH["multipliers"].items() for mode in modes
]


@pytest.mark.parametrize(("width", "mode"), WIDTHS)
def test_channels(width, mode):
  network = block_specs.build_specs(float(width), None, mode == "finegrain")
  blocks = [block.channels for block in network.blocks]
  expected = ARCH["multipliers"][width][mode]["channels"]
  assert [network.first_channels, *blocks, network.last_channels] == expected


@pytest.mark.parametrize("width", ["1.0", "1.3", "1.4"])
def test_finegrain_mode_changes_nothing_at_widths_of_1_and_above(width):
  assert block_specs.build_specs(float(width), None, True) == block_specs.build_specs(
    float(width), None, False
  )


@pytest.mark.parametrize("output_stride", [8, 16])
def test_strides_and_dilation_rates(output_stride):
  blocks = block_specs.build_specs(1.0, output_stride, True).blocks
  assert [
    {"scope": block.name, "stride": block.stride, "rate": block.dilation_rate}
    for block in blocks
  ] == [
    {**layer, "scope": layer["scope"].removesuffix("/depthwise")}
    for layer in ARCH["depthwise"][str(output_stride)]
  ]


def test_output_stride_32_is_the_network_itself():
  assert block_specs.build_specs(1.0, 32, True) == block_specs.build_specs(
    1.0, None, True
  )


@pytest.mark.parametrize("output_stride", [None, 8, 16])
def test_levels_are_those_of_slims_endpoints(output_stride):
  shapes = ARCH["endpoints_1.0_224"][str(output_stride)]
  for number, block in enumerate(
    block_specs.build_specs(1.0, output_stride, True).blocks, 2
  ):
    height, _, channels = shapes[f"layer_{number}"]
    assert (224 // 2**block.level, block.channels) == (height, channels)
    assert shapes[f"layer_{number - 1}"][0] == 224 // 2**block.input_level


@pytest.mark.parametrize(
  ("channels", "rounded"), [(0.1, 8), (11.9, 16), (12, 16), (44.8, 48), (92, 96)]
)
def test_rounding(channels, rounded):
  # 11.9 rounds down to 8, less than 90% of it, and so up; ties go up.
  assert block_specs.round_channels(channels) == rounded
