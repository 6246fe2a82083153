"""The width inferred from channels: slim's own, and those that nobody published."""

import json

import golden_recipes
import pytest

from mnv2_hpu.checkpoints import slim_architecture
from mnv2_hpu.checkpoints.slim_architecture import Architecture
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import block_specs

GOLDEN = json.loads((golden_recipes.GOLDEN / "arch.json").read_text())["multipliers"]
SLIMS = [
  (float(width), mode, numbers["channels"])
  for width, modes in GOLDEN.items()
  for mode, numbers in modes.items()
]
BLOCKS = ["expanded_conv", *(f"expanded_conv_{number}" for number in range(1, 17))]
LAYERS = ["Conv", *(f"{block}/project" for block in BLOCKS), "Conv_1"]


def shapes_of(channels, num_classes=None, suffix=""):
  layers = LAYERS
  if num_classes:
    layers, channels = [*layers, "Logits/Conv2d_1c_1x1"], [*channels, num_classes]
  return {
    f"MobilenetV2/{layer}/weights{suffix}": [1, 1, 8, count]
    for layer, count in zip(layers, channels, strict=True)
  }


def channels_of(width, finegrain):
  network = block_specs.build_specs(width, None, finegrain)
  blocks = [block.channels for block in network.blocks]
  return [network.first_channels, *blocks, network.last_channels]


@pytest.mark.parametrize(("width", "mode", "channels"), SLIMS)
def test_widths_of_the_paper_in_both_modes(width, mode, channels):
  finegrain = mode == "finegrain" or width >= 1  # there, the modes are one
  assert slim_architecture.infer(shapes_of(channels, 1001)) == Architecture(
    width, finegrain, 1001
  )


def test_ema_alone_and_no_logits_layer():
  shapes = shapes_of(SLIMS[0][2], suffix="/ExponentialMovingAverage")
  assert slim_architecture.infer(shapes) == Architecture(0.35, False, None)


@pytest.mark.parametrize("finegrain", [True, False])
@pytest.mark.parametrize("width", [0.6, 0.9, 1.2, 2.0])
def test_round_widths_are_inferred_as_they_are(width, finegrain):
  inferred = slim_architecture.infer(shapes_of(channels_of(width, finegrain)))
  assert inferred == Architecture(width, finegrain or width >= 1, None)


@pytest.mark.parametrize("finegrain", [True, False])
def test_any_width_gives_one_with_the_same_channels(finegrain):
  for width in (0.01, 0.0277, 0.028, 0.0625, 0.111, 0.4321, 0.9999, 1.2345, 3.3, 7.77):
    channels = channels_of(width, finegrain)
    inferred = slim_architecture.infer(shapes_of(channels))
    assert (
      channels_of(inferred.width_multiplier, inferred.finegrain_classification_mode)
      == channels
    )


def test_channels_of_no_width():
  channels = list(SLIMS[0][2])
  channels[5] = 40
  with pytest.raises(
    UserError, match=r"No width.*16, 8, 8, 8, 16, 40, 16.*1\.0 .*1280"
  ):
    slim_architecture.infer(shapes_of(channels))


@pytest.mark.parametrize(
  ("removed", "message"),
  [
    (["Conv"], r"no MobilenetV2/Conv/weights\."),
    (["expanded_conv_4/project", "Conv_1"], "expanded_conv_4/project/weights, nor 1 "),
  ],
)
def test_missing_kernels(removed, message):
  shapes = shapes_of(SLIMS[0][2])
  for layer in removed:
    del shapes[f"MobilenetV2/{layer}/weights"]
  with pytest.raises(UserError, match=message):
    slim_architecture.infer(shapes)
