"""SSDLite: MobileNetV2 under separable multi-scale predictors (arXiv 1801.04381, 6.2).

Source of the numbers: `ssd_mobilenet_v2_feature_extractor.py`, `feature_map_generators`
and `convolutional_box_predictor` of the TF1 Object Detection API, as
`ssdlite_mobilenet_v2_coco.config` sets them. Layers bear the names of its scopes.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from official.modeling import tf_utils

from mnv2_hpu.compat import keras
from mnv2_hpu.modeling import precision
from mnv2_hpu.modeling.mobilenet_v2 import BATCH_NORM
from mnv2_hpu.modeling.multibox import (
  Targets,
  assign_targets,
  multibox_loss,
  postprocess,
)

__all__ = [
  "SSDLite",
  "Targets",
  "anchors",
  "assign_targets",
  "multibox_loss",
  "postprocess",
]

# Backbone endpoints under the predictors: slim's `layer_15/expansion_output`, `Conv_1`.
BACKBONE_ENDPOINTS = ("4/expansion", "6")
EXTRA_CHANNELS = (
  512,
  256,
  256,
  128,
)  # outputs of the layers after the backbone, at width 1
MIN_CHANNELS = 16
FINEST_STRIDE = 16  # stride of the first endpoint; each next level has twice as much
NUM_LEVELS = len(BACKBONE_ENDPOINTS) + len(EXTRA_CHANNELS)

MIN_SCALE, MAX_SCALE = 0.2, 0.95  # sides of square anchors, fractions of the image's
ASPECT_RATIOS = (1.0, 2.0, 0.5, 3.0, 0.3333)  # width / height; four digits as there


class AnchorShape(NamedTuple):
  """Side of a square anchor of that area, fraction of the image's; width / height."""

  scale: float
  aspect_ratio: float


def anchor_shapes() -> list[list[AnchorShape]]:
  """Returns the anchors of a cell of each level: 3 of the first, 6 of the others.

  >>> [len(shapes) for shapes in anchor_shapes()]
  [3, 6, 6, 6, 6, 6]
  """
  scales = [*np.linspace(MIN_SCALE, MAX_SCALE, NUM_LEVELS), 1.0]
  # The first level has fewer, smaller ones (`reduce_boxes_in_lowest_layer`).
  first = [AnchorShape(0.1, 1.0), AnchorShape(0.2, 2.0), AnchorShape(0.2, 0.5)]
  levels = [first]
  for scale, following in itertools.pairwise(scales[1:]):
    shapes = [AnchorShape(scale, ratio) for ratio in ASPECT_RATIOS]
    levels.append([*shapes, AnchorShape(math.sqrt(scale * following), 1.0)])
  return levels


def anchors(height: int, width: int) -> np.ndarray:
  """Returns the anchors of an image size.

  Args:
    height: Height of the network's input in pixels.
    width: Its width.

  Returns:
    float32 `[anchors, 4]`: ymin, xmin, ymax, xmax as fractions of the image, by level,
    row, column, shape; not clipped to the image.

  >>> anchors(300, 300).shape, anchors(320, 320).shape
  ((1917, 4), (2034, 4))
  """
  # In float32 and in the API's order: equal IoUs that rounding decides then fall alike.
  shorter = min(height, width)
  base = np.array([shorter / height, shorter / width], np.float32)
  levels = []
  for level, shapes in enumerate(anchor_shapes()):
    stride = FINEST_STRIDE * 2**level
    grid = [math.ceil(height / stride), math.ceil(width / stride)]
    steps = [np.float32(1 / cells) for cells in grid]
    y, x = (
      np.arange(cells, dtype=np.float32) * step + np.float32(0.5) * step
      for cells, step in zip(grid, steps, strict=True)
    )
    centers = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)[:, :, None]
    scales, ratios = np.array(shapes, np.float32).T[..., None]
    sizes = np.concatenate([scales / np.sqrt(ratios), scales * np.sqrt(ratios)], 1)
    half = np.float32(0.5) * sizes * base
    boxes = np.concatenate([centers - half, centers + half], axis=-1)
    levels.append(boxes.reshape(-1, 4))
  return np.concatenate(levels)


def extra_channels(width_multiplier: float) -> list[tuple[int, int]]:
  """Returns the channels of each layer after the backbone: inside it, and after it.

  >>> extra_channels(0.35)
  [(89, 179), (44, 89), (44, 89), (22, 44)]
  """

  def scaled(channels: int) -> int:
    return max(MIN_CHANNELS, int(channels * width_multiplier))

  return [(scaled(depth // 2), scaled(depth)) for depth in EXTRA_CHANNELS]


@keras.utils.register_keras_serializable(package="mnv2_hpu")
class SSDLite(keras.Model):
  """Maps preprocessed images to the raw predictions of every anchor.

  From `[batch, height, width, 3]` in [-1, 1] to a dictionary of float32 (or float64):
  `box_encodings`, `[batch, anchors, 4]` (ty, tx, th, tw), and `class_logits`,
  `[batch, anchors, num_classes + 1]`, whose column 0 is the background. Their anchors
  are those of `anchors(height, width)`.
  """

  def __init__(
    self,
    backbone: keras.Model,
    num_classes: int,
    input_specs: keras.layers.InputSpec,
    width_multiplier: float = 1.0,
    activation: str = "relu6",
    use_sync_bn: bool = False,
    norm_momentum: float = 0.9997,
    norm_epsilon: float = 0.001,
    kernel_initializer: keras.initializers.Initializer | None = None,
    kernel_regularizer: keras.regularizers.Regularizer | None = None,
    **kwargs: Any,
  ) -> None:
    """Builds the network.

    Args:
      backbone: `MobileNetV2` with the outputs `BACKBONE_ENDPOINTS`.
      num_classes: Number of classes, without the background.
      input_specs: Shape of the images, `[None, height, width, 3]`.
      width_multiplier: Factor of the channels of the layers after the backbone.
      activation: Activation after all convolutions but the last of each predictor.
      use_sync_bn: Whether batch statistics are those of all replicas.
      norm_momentum: Momentum of the moving batch statistics.
      norm_epsilon: Epsilon added to the batch variance.
      kernel_initializer: Initializer of the kernels here; None is
        TruncatedNormal(stddev=0.03).
      kernel_regularizer: Regularizer of the kernels here, depthwise ones too.
      **kwargs: Keyword arguments of `keras.Model`.
    """
    self._num_classes = num_classes
    self._kernel_regularizer = kernel_regularizer
    self._kernel_initializer = (
      keras.initializers.TruncatedNormal(stddev=0.03)
      if kernel_initializer is None
      else kernel_initializer
    )
    self._activation = tf_utils.get_activation(activation)
    self._norm = {
      # TF1's graph subtracts the float32 momentum from 1.
      "momentum": float(np.float32(norm_momentum)),
      "epsilon": norm_epsilon,
      "synchronized": use_sync_bn,
    }
    images = keras.Input(shape=input_specs.shape[1:])
    endpoints = backbone(images)
    levels = [endpoints[name] for name in BACKBONE_ENDPOINTS]
    for number, (inside, after) in enumerate(extra_channels(width_multiplier), 2):
      x = self._convolve(levels[-1], f"layer_19_1_Conv2d_{number}_1x1_{inside}", inside)
      name = f"layer_19_2_Conv2d_{number}_3x3_s2_{after}"
      x = self._convolve_depthwise(x, f"{name}_depthwise", stride=2)
      levels.append(self._convolve(x, name, after))
    outputs = {
      "box_encodings": self._predict(levels, "BoxEncodingPredictor", 4),
      "class_logits": self._predict(levels, "ClassPredictor", num_classes + 1),
    }
    super().__init__(inputs=images, outputs=outputs, **kwargs)
    self._backbone = backbone

  def _predict(
    self, levels: list[tf.Tensor], name: str, values_per_anchor: int
  ) -> tf.Tensor:
    """Returns `[batch, anchors, values_per_anchor]` of all levels."""
    predictions = []
    for level, (x, shapes) in enumerate(zip(levels, anchor_shapes(), strict=True)):
      scope = f"BoxPredictor_{level}/{name}"
      x = self._convolve_depthwise(x, f"{scope}_depthwise")
      with precision.full_precision():
        x = keras.layers.Conv2D(
          len(shapes) * values_per_anchor,
          1,
          kernel_initializer=tf_utils.clone_initializer(self._kernel_initializer),
          kernel_regularizer=self._kernel_regularizer,
          name=scope,
        )(x)
        shape = (-1, values_per_anchor)
        predictions.append(keras.layers.Reshape(shape, name=f"{scope}/flat")(x))
    with precision.full_precision():
      return keras.layers.Concatenate(axis=1, name=name)(predictions)

  def _convolve(self, x: tf.Tensor, name: str, channels: int) -> tf.Tensor:
    x = keras.layers.Conv2D(
      channels,
      1,
      use_bias=False,
      kernel_initializer=tf_utils.clone_initializer(self._kernel_initializer),
      kernel_regularizer=self._kernel_regularizer,
      name=name,
    )(x)
    return self._normalize(x, name)

  def _convolve_depthwise(self, x: tf.Tensor, name: str, stride: int = 1) -> tf.Tensor:
    x = keras.layers.DepthwiseConv2D(
      3,
      strides=stride,
      padding="same",
      use_bias=False,
      depthwise_initializer=tf_utils.clone_initializer(self._kernel_initializer),
      depthwise_regularizer=self._kernel_regularizer,
      name=name,
    )(x)
    return self._normalize(x, name)

  def _normalize(self, x: tf.Tensor, name: str) -> tf.Tensor:
    x = keras.layers.BatchNormalization(name=f"{name}/{BATCH_NORM}", **self._norm)(x)
    return keras.layers.Activation(self._activation, name=f"{name}/activation")(x)

  @property
  def backbone(self) -> keras.Model:
    """The network below the predictors."""
    return self._backbone

  def tf1_scope(self, layer: str) -> str:
    """Returns the Object Detection API's scope of a layer, here or of the backbone."""
    is_predictor = layer.startswith("BoxPredictor_")
    return layer if is_predictor else f"FeatureExtractor/MobilenetV2/{layer}"

  @property
  def num_classes(self) -> int:
    """Number of classes, without the background."""
    return self._num_classes

  @property
  def checkpoint_items(self) -> Mapping[str, keras.Model]:
    """What a checkpoint of a training holds beside the whole model."""
    return {"backbone": self._backbone}
