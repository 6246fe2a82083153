"""Weights of whole detectors: TF1 checkpoints of the Object Detection API."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence

import tensorflow as tf

from mnv2_hpu.checkpoints import paths, pretrained, slim, slim_architecture
from mnv2_hpu.checkpoints.slim_architecture import EMA
from mnv2_hpu.compat import keras
from mnv2_hpu.dataloaders import detection_input, input_fields
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import precision, ssdlite
from mnv2_hpu.modeling.mobilenet_v2 import MobileNetV2

IMAGE_SIZE = 300  # what ssdlite_mobilenet_v2_coco.config trains at
_PREFIX = "FeatureExtractor/"
_CLASSES = "BoxPredictor_0/ClassPredictor/weights"
_CLASSES_DEPTHWISE = "BoxPredictor_0/ClassPredictor_depthwise/depthwise_weights"
_EXTRA_LAYER = re.compile(
  rf"{_PREFIX}MobilenetV2/layer_19_2_Conv2d_(\d)_3x3_s2_\d+/weights$"
)
_RESIZER = re.compile(r"fixed_shape_resizer\s*\{\s*height:\s*(\d+)\s*width:\s*(\d+)")


@dataclasses.dataclass(frozen=True)
class DetectorInfo:
  """What weights are, and what they expect: pixels from -1 to 1.

  Attributes:
    path: Prefix of the files that were read.
    width_multiplier: Factor of the channels of every layer.
    num_classes: Number of classes, without the background.
    image_size: Side of the images, as pipeline.config beside the files says, or
      `IMAGE_SIZE`.
    weights: `ema` or `raw`.
    global_step: Steps that it was trained, where known.
    source: `object_detection_api`.
    use_explicit_padding: Whether strided convolutions pad as PyTorch's do.
    norm_epsilon: Added to the batch variance.
  """

  path: str
  width_multiplier: float
  num_classes: int
  image_size: int
  weights: str = "raw"
  global_step: int | None = None
  source: str = "object_detection_api"
  use_explicit_padding: bool = False
  norm_epsilon: float = 1e-3


def is_detector(path: str) -> bool:
  """Whether there is a TF1 checkpoint with box predictors.

  Args:
    path: A file or a folder, as `load_pretrained` and `load_detector` take it.

  Raises:
    UserError: If there are no weights at all.
  """
  if pretrained.find_file(path) is not None:
    return False
  return _CLASSES in paths.shapes(paths.find_checkpoint(path))


def load_detector(
  path: str, weights: str = "ema"
) -> tuple[ssdlite.SSDLite, DetectorInfo]:
  """Loads a whole SSDLite over MobileNetV2, its predictors included.

  Args:
    path: Prefix of a TF1 checkpoint of the Object Detection API, or its folder.
    weights: `"ema"`, or `"raw"`, which that API evaluates; its published checkpoints
      hold no others, and `"ema"` then reads them too.

  Returns:
    The network, which maps images in [-1, 1] as `modeling.ssdlite.SSDLite` says; and
    what the weights are and expect.

  Raises:
    UserError: If nothing there can be read, or it is another network.
  """
  path = paths.find_checkpoint(path)
  shapes = paths.shapes(path)
  width, num_classes = _infer(path, shapes)
  if not any(name.endswith(f"/{EMA}") for name in shapes):
    weights = "raw"
  info = DetectorInfo(path, width, num_classes, _image_size(path), weights)
  model = _build(info)
  read = slim.load_slim_checkpoint(model, path, weights=weights)
  return model, dataclasses.replace(info, global_step=read.global_step)


def _infer(path: str, shapes: Mapping[str, Sequence[int]]) -> tuple[float, int]:
  """Returns width and classes of a checkpoint.

  Raises:
    UserError: If it is of another detector.
  """
  if _CLASSES not in shapes:
    raise UserError(
      f"The checkpoint {path!r} is no SSD of the Object Detection API's: it has no "
      f"{_CLASSES}. checkpoints.load_pretrained reads classifiers."
    )
  if _CLASSES_DEPTHWISE not in shapes:
    raise UserError(
      f"The checkpoint {path!r} is of an SSD whose predictors are not separable: it "
      f"has no {_CLASSES_DEPTHWISE}. SSDLite (use_depthwise: true) is read."
    )
  backbone = {name.removeprefix(_PREFIX): shape for name, shape in shapes.items()}
  channels = slim_architecture.read_channels(backbone)
  extra = sorted(
    (int(match[1]), shape[-1])
    for name, shape in shapes.items()
    if (match := _EXTRA_LAYER.match(name))
  )
  for width in slim_architecture.width_candidates(channels[-2]):
    of_width = slim_architecture.layer_channels(
      width, finegrain=False, min_channels=ssdlite.MIN_CHANNELS
    )
    layers = enumerate(ssdlite.extra_channels(width), 2)
    if of_width == channels and extra == [(n, after) for n, (_, after) in layers]:
      return width, _num_classes(path, shapes[_CLASSES][-1])
  of_extra = ", ".join(str(after) for _, after in extra) or "missing"
  raise UserError(
    f"The checkpoint {path!r} is of no SSDLite over MobileNetV2 that a width "
    "multiplier gives: the channels of the first convolution, the 17 blocks and the "
    f"last convolution (0 is a missing one) are {', '.join(map(str, channels))}, those "
    f"of the layers after them {of_extra}."
  )


def _num_classes(path: str, channels: int) -> int:
  """Returns the classes, without the background, of the first predictor's channels."""
  per_class = len(ssdlite.anchor_shapes()[0])
  if channels % per_class or channels < 2 * per_class:
    raise UserError(
      f"The checkpoint {path!r} has {channels} channels in {_CLASSES}; SSDLite has "
      f"{per_class} for each class and for the background."
    )
  return channels // per_class - 1


def _image_size(path: str) -> int:
  config = os.path.join(os.path.dirname(path), "pipeline.config")
  if not tf.io.gfile.exists(config) or tf.io.gfile.isdir(config):
    return IMAGE_SIZE
  with tf.io.gfile.GFile(config, "rb") as file:
    found = _RESIZER.search(file.read().decode(errors="replace"))
  if found is None or found[1] != found[2]:
    return IMAGE_SIZE
  allowed = range(detection_input.MIN_IMAGE_SIZE, input_fields.MAX_IMAGE_SIZE + 1)
  if int(found[1][:9]) not in allowed:
    raise UserError(
      f"{config!r} resizes images to {found[1]} pixels; allowed are {allowed[0]} to "
      f"{allowed[-1]}. Correct it, or move it away: {IMAGE_SIZE} is taken without it."
    )
  return int(found[1])


def _build(info: DetectorInfo) -> ssdlite.SSDLite:
  specs = keras.layers.InputSpec(shape=[None, info.image_size, info.image_size, 3])
  with precision.full_precision():
    backbone = MobileNetV2(
      info.width_multiplier,
      input_specs=specs,
      finegrain_classification_mode=False,
      min_channels=ssdlite.MIN_CHANNELS,
      norm_epsilon=info.norm_epsilon,
      output_intermediate_endpoints=True,
    )
    return ssdlite.SSDLite(
      backbone,
      info.num_classes,
      specs,
      info.width_multiplier,
      norm_epsilon=info.norm_epsilon,
    )
