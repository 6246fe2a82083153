"""What is done to an image before the network, while serving: what evaluation does.

The definitions stand elsewhere (`dataloaders.inception_preprocessing`, Model Garden's
`preprocess_ops`); this says which of them, and splits it where TFLite begins. The
exported program scales pixel values itself, so that its user need not know how.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from mnv2_hpu.dataloaders import (
  inception_preprocessing,
  segmentation_input,
  ssd_preprocessing,
)
from mnv2_hpu.dataloaders.input_fields import PreprocessingOptions
from mnv2_hpu.errors import UserError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Preprocessing(abc.ABC):
  """From an image of any size to the network's input.

  Attributes:
    height: Height of the network's input in pixels.
    width: Width of the network's input in pixels.
    options: What the run did to its images.
  """

  height: int
  width: int
  options: PreprocessingOptions

  resize_method: ClassVar[str]
  crop_step: ClassVar[str]
  normalization: ClassVar[str]

  @abc.abstractmethod
  def resize(self, image: tf.Tensor) -> tf.Tensor:
    """Crops and resizes.

    Args:
      image: uint8, `[h, w, 3]`.

    Returns:
      float32, `[height, width, 3]`, pixel values from 0 to 255.
    """

  @abc.abstractmethod
  def normalize(self, pixels: tf.Tensor) -> tf.Tensor:
    """Scales pixel values, float32 from 0 to 255, as the network expects them."""

  @abc.abstractmethod
  def denormalize(self, network_input: np.ndarray) -> np.ndarray:
    """Undoes `normalize`: float pixel values from 0 to 255, for people to look at."""

  def network_input(self, image: tf.Tensor) -> tf.Tensor:
    """Returns the network's input, float32 `[height, width, 3]`, for `resize`'s."""
    return self.normalize(self.resize(image))

  def as_dict(self) -> dict[str, Any]:
    """Returns what `from_dict` builds an equal one from, for `export.json`."""
    return {
      "name": next(name for name, kind in KINDS.items() if type(self) is kind),
      "height": self.height,
      "width": self.width,
      "central_fraction": self.options.central_fraction,
      "crop": self.options.crop,
      "resize_method": self.resize_method,
      "steps": self.steps(),
    }

  def steps(self) -> list[str]:
    """Returns what is done to an image file, in order; TFLite does the last alone."""
    crop = self.crop_step.format(central_fraction=self.options.central_fraction)
    return [
      "decode to RGB, uint8, as image_decoding says",
      *([crop] if self.options.crop else []),
      f"resize to {self.height} x {self.width}: {self.resize_method}",
      self.normalization,
    ]


class Inception(Preprocessing):
  """Slim's: the central part whatever its aspect ratio, values from -1 to 1."""

  resize_method = "bilinear, no half-pixel centers, no antialiasing"
  crop_step = "keep the central {central_fraction} of height and of width"
  normalization = "pixels / 127.5 - 1"

  def resize(self, image: tf.Tensor) -> tf.Tensor:
    """See `Preprocessing`."""
    return 255.0 * inception_preprocessing.resize_for_eval(
      image, self.height, self.width, self.options
    )

  def normalize(self, pixels: tf.Tensor) -> tf.Tensor:
    """See `Preprocessing`."""
    return inception_preprocessing.to_minus_one_one(pixels / 255.0)

  def denormalize(self, network_input: np.ndarray) -> np.ndarray:
    """See `Preprocessing`."""
    return (network_input + 1.0) * 127.5

  def network_input(self, image: tf.Tensor) -> tf.Tensor:
    """See `Preprocessing`; the very function that evaluation calls."""
    return inception_preprocessing.preprocess_for_eval(
      image, self.height, self.width, self.options
    )


class ModelGarden(Preprocessing):
  """Model Garden's parser: a central square, less the mean, by the deviation."""

  resize_method = "bilinear, half-pixel centers, no antialiasing"
  crop_step = "keep the central square of 0.875 of the shorter side"
  normalization = "(pixels - mean) / standard deviation of ImageNet, by channel"

  def resize(self, image: tf.Tensor) -> tf.Tensor:
    """See `Preprocessing`; the square is 0.875 of the shorter side, as upstream's."""
    if self.options.crop:
      image = _preprocess_ops().center_crop_image(image)
    pixels = tf.image.resize(image, [self.height, self.width])
    return tf.ensure_shape(pixels, [self.height, self.width, 3])

  def normalize(self, pixels: tf.Tensor) -> tf.Tensor:
    """See `Preprocessing`."""
    ops = _preprocess_ops()
    return ops.normalize_scaled_float_image(pixels, ops.MEAN_RGB, ops.STDDEV_RGB)

  def denormalize(self, network_input: np.ndarray) -> np.ndarray:
    """See `Preprocessing`."""
    ops = _preprocess_ops()
    return network_input * np.array(ops.STDDEV_RGB) + np.array(ops.MEAN_RGB)


class Ssd(Preprocessing):
  """TF1 SSD's: the whole image, its aspect ratio not kept, values from -1 to 1."""

  resize_method = "bilinear, no half-pixel centers, no antialiasing"
  crop_step = ""
  normalization = "pixels * (2 / 255) - 1"

  def resize(self, image: tf.Tensor) -> tf.Tensor:
    """See `Preprocessing`."""
    pixels = tf.cast(image, tf.float32)  # else an image of the same size keeps its type
    return ssd_preprocessing.resize(pixels, (self.height, self.width))

  def normalize(self, pixels: tf.Tensor) -> tf.Tensor:
    """See `Preprocessing`."""
    return ssd_preprocessing.normalize(pixels)

  def denormalize(self, network_input: np.ndarray) -> np.ndarray:
    """See `Preprocessing`."""
    return (network_input + 1.0) * 127.5

  def network_input(self, image: tf.Tensor) -> tf.Tensor:
    """See `Preprocessing`; the very function that evaluation calls."""
    return ssd_preprocessing.preprocess_image(image, (self.height, self.width))


class Deeplab(Preprocessing):
  """DeepLab's: an image at its own size, padded; a larger one is scaled down to fit.

  Evaluation refuses larger images.
  """

  resize_method = (
    "larger images are scaled down to fit, the aspect ratio kept (bilinear, half-pixel "
    "centers, antialiasing), none is scaled up; then padded with 127.5 below and at "
    "the right"
  )
  crop_step = ""
  normalization = "pixels * (2 / 255) - 1"

  def resize(self, image: tf.Tensor) -> tf.Tensor:
    """See `Preprocessing`."""
    size = tf.constant([self.height, self.width])
    fitted = fitted_size(tf.shape(image)[:2], size)
    pixels = tf.cond(
      tf.reduce_all(fitted == tf.shape(image)[:2]),
      lambda: tf.cast(image, tf.float32),
      lambda: tf.image.resize(image, fitted, antialias=True),
    )
    padded = segmentation_input.pad_image(pixels, (self.height, self.width))
    return tf.ensure_shape(padded, [self.height, self.width, 3])

  def normalize(self, pixels: tf.Tensor) -> tf.Tensor:
    """See `Preprocessing`."""
    return segmentation_input.normalize(pixels)

  def denormalize(self, network_input: np.ndarray) -> np.ndarray:
    """See `Preprocessing`."""
    return (network_input + 1.0) * 127.5


def fitted_size(image_size: tf.Tensor, network_size: tf.Tensor) -> tf.Tensor:
  """Returns the size of an image in the network's input, without its padding.

  Args:
    image_size: Its height and width, int32 `[2]`.
    network_size: Those of the network's input, int32 `[2]`.
  """
  ratios = tf.cast(network_size, tf.float32) / tf.cast(image_size, tf.float32)
  scale = tf.minimum(tf.reduce_min(ratios), 1.0)
  scaled = tf.cast(tf.round(tf.cast(image_size, tf.float32) * scale), tf.int32)
  return tf.clip_by_value(scaled, 1, network_size)


KINDS: dict[str, type[Preprocessing]] = {
  "inception": Inception,
  "model_garden": ModelGarden,
  "ssd": Ssd,
  "deeplab": Deeplab,
}
_WHOLE = PreprocessingOptions(crop=False, central_fraction=1.0)


def create_ssd(height: int, width: int) -> Preprocessing:
  """Builds the preprocessing of a detector."""
  return Ssd(height, width, _WHOLE)


def create_deeplab(height: int, width: int) -> Preprocessing:
  """Builds the preprocessing of a segmenter."""
  return Deeplab(height, width, _WHOLE)


def create(
  name: str, height: int, width: int, options: PreprocessingOptions
) -> Preprocessing:
  """Builds the preprocessing of a name in `KINDS`.

  Raises:
    UserError: If the name is unknown.
  """
  if name not in KINDS:
    raise UserError(f"preprocessing is {name!r}. {did_you_mean(name, KINDS)}")
  return KINDS[name](height, width, options)


def from_dict(fields: Mapping[str, Any]) -> Preprocessing:
  """Builds the preprocessing that `Preprocessing.as_dict` describes."""
  options = PreprocessingOptions(
    central_fraction=fields["central_fraction"], crop=fields["crop"]
  )
  return create(fields["name"], fields["height"], fields["width"], options)


def _preprocess_ops() -> Any:
  # Here, since it imports all of Model Garden's vision tasks: ten seconds.
  from official.vision.ops import preprocess_ops

  return preprocess_ops
