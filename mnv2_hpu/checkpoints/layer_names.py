"""What other libraries call MobileNetV2's variables, by what slim calls them.

Sources: `modeling_mobilenet_v2.py` of transformers, `mobilenetv2.py` of torchvision,
`_efficientnet_builder.py` of timm, and files that these libraries have written.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from mnv2_hpu.checkpoints.slim_architecture import LOGITS
from mnv2_hpu.modeling import block_specs

NUM_BLOCKS = sum(spec.repeats for spec in block_specs.BLOCK_SPECS)


class Place(NamedTuple):
  """A convolution of the network.

  Attributes:
    block: Number of the inverted residual, 0 to 16; -1 before and 17 after them.
    part: `expand`, `depthwise` or `project`; empty outside of a block.
  """

  block: int
  part: str = ""

  @property
  def scope(self) -> str:
    """Slim's scope of it."""
    if not self.part:
      return "Conv" if self.block < 0 else "Conv_1"
    return f"expanded_conv{f'_{self.block}' if self.block else ''}/{self.part}"


def places() -> Iterator[Place]:
  """Yields the convolutions in the order in which they run."""
  yield Place(-1)
  for block in range(NUM_BLOCKS):
    if block:
      yield Place(block, "expand")
    yield Place(block, "depthwise")
    yield Place(block, "project")
  yield Place(NUM_BLOCKS)


def _hugging_face(place: Place) -> tuple[str, str]:
  block, part = place
  parts = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}
  if not part:
    name = "conv_stem.first_conv" if block < 0 else "conv_1x1"
  elif block == 0:
    name = f"conv_stem.{parts[part]}"
  else:
    name = f"layer.{block - 1}.{parts[part]}"
  return f"{name}.convolution", f"{name}.normalization"


def _torchvision(place: Place) -> tuple[str, str]:
  block, part = place
  features = f"features.{block + 1}"
  if not part:
    return f"{features}.0", f"{features}.1"
  number = ("expand", "depthwise", "project").index(part) - (block == 0)
  name = f"{features}.conv.{number}"
  if part == "project":
    return name, f"{features}.conv.{number + 1}"
  return f"{name}.0", f"{name}.1"


def _timm(place: Place) -> tuple[str, str]:
  block, part = place
  if not part:
    return ("conv_stem", "bn1") if block < 0 else ("conv_head", "bn2")
  stage, repeat = 0, block
  while repeat >= block_specs.BLOCK_SPECS[stage].repeats:
    repeat -= block_specs.BLOCK_SPECS[stage].repeats
    stage += 1
  number = ("expand", "depthwise", "project").index(part) - (block == 0)
  kernel = ("conv_pw", "conv_dw", "conv_pwl")[number + (block == 0)]
  if place == Place(0, "project"):
    kernel = "conv_pw"
  name = f"blocks.{stage}.{repeat}"
  return f"{name}.{kernel}", f"{name}.bn{number + 1}"


# By library: a place to the names of its convolution and its batch norm.
_MODULES: dict[str, Callable[[Place], tuple[str, str]]] = {
  "huggingface": _hugging_face,
  "torchvision": _torchvision,
  "timm": _timm,
}
_CLASSIFIERS = {
  "huggingface": "classifier",
  "torchvision": "classifier.1",
  "timm": "classifier",
}
_NORM = {
  "weight": "gamma",
  "bias": "beta",
  "running_mean": "moving_mean",
  "running_var": "moving_variance",
}


def torch_names(library: str) -> dict[str, str]:
  """Returns slim's name, without `MobilenetV2/`, by that of a library of PyTorch.

  Args:
    library: `huggingface`, `torchvision` or `timm`.
  """
  names = {}
  for place in places():
    kernel, norm = _MODULES[library](place)
    leaf = "depthwise_weights" if place.part == "depthwise" else "weights"
    names[f"{kernel}.weight"] = f"{place.scope}/{leaf}"
    for ours, slims in _NORM.items():
      names[f"{norm}.{ours}"] = f"{place.scope}/BatchNorm/{slims}"
  classifier = _CLASSIFIERS[library]
  names[f"{classifier}.weight"] = f"{LOGITS}/weights"
  names[f"{classifier}.bias"] = f"{LOGITS}/biases"
  return names


# Hugging Face's convolutions of a segmentation head, by research/deeplab's scopes.
_SEGMENTATION_HEAD = {
  "image_pooling": "conv_pool",
  "aspp0": "conv_aspp",
  "concat_projection": "conv_projection",
}
SEGMENTATION = "segmentation_head."  # before all of them


def segmentation_names() -> dict[str, str]:
  """Returns research/deeplab's name by Hugging Face's, of a segmentation head."""
  names = {
    f"{SEGMENTATION}classifier.convolution.weight": "logits/semantic/weights",
    f"{SEGMENTATION}classifier.convolution.bias": "logits/semantic/biases",
  }
  for scope, layer in _SEGMENTATION_HEAD.items():
    names[f"{SEGMENTATION}{layer}.convolution.weight"] = f"{scope}/weights"
    for ours, slims in _NORM.items():
      name = f"{SEGMENTATION}{layer}.normalization.{ours}"
      names[name] = f"{scope}/BatchNorm/{slims}"
  return names


def keras_layer(place: Place) -> tuple[str, str]:
  """Returns Keras Applications' names of a convolution and its batch norm."""
  block, part = place
  if not part:
    return ("Conv1", "bn_Conv1") if block < 0 else ("Conv_1", "Conv_1_bn")
  name = f"{f'block_{block}' if block else 'expanded_conv'}_{part}"
  return name, f"{name}_BN"
