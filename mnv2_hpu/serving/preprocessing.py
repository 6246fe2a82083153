"""What is done to an image before the network, while serving: what evaluation does.

The definitions stand elsewhere (`dataloaders.inception_preprocessing`, Model Garden's
`preprocess_ops`); this says which of them, and splits it where TFLite begins. The
exported program scales pixel values itself, so that its user need not know how.
"""

import abc
import dataclasses
from typing import Any

import tensorflow as tf

from mnv2_hpu.dataloaders import inception_preprocessing
from mnv2_hpu.errors import UserError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Preprocessing(abc.ABC):
  """From an image of any size to the network's input.

  Attributes:
    height: of the network's input, in pixels.
    width: likewise.
    central_fraction: of each side that is kept.
    crop: whether the run cropped its images.
  """

  height: int
  width: int
  central_fraction: float = 0.875
  crop: bool = True

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

  def network_input(self, image: tf.Tensor) -> tf.Tensor:
    """Returns the network's input, float32 `[height, width, 3]`, for `resize`'s."""
    return self.normalize(self.resize(image))


class Inception(Preprocessing):
  """Slim's: the central part whatever its aspect ratio, values from -1 to 1."""

  def resize(self, image: tf.Tensor) -> tf.Tensor:
    """See `Preprocessing`."""
    return (self.network_input(image) + 1.0) * 127.5

  def normalize(self, pixels: tf.Tensor) -> tf.Tensor:
    """See `Preprocessing`."""
    return pixels / 127.5 - 1.0

  def network_input(self, image: tf.Tensor) -> tf.Tensor:
    """See `Preprocessing`; the very function that evaluation calls."""
    return inception_preprocessing.preprocess_for_eval(
      image, self.height, self.width, self.central_fraction
    )


class ModelGarden(Preprocessing):
  """Model Garden's parser: a central square, less the mean, by the deviation."""

  def resize(self, image: tf.Tensor) -> tf.Tensor:
    """See `Preprocessing`; the square is 0.875 of the shorter side, as upstream's."""
    if self.crop:
      image = _preprocess_ops().center_crop_image(image)
    pixels = tf.image.resize(image, [self.height, self.width])
    return tf.ensure_shape(pixels, [self.height, self.width, 3])

  def normalize(self, pixels: tf.Tensor) -> tf.Tensor:
    """See `Preprocessing`."""
    ops = _preprocess_ops()
    return ops.normalize_scaled_float_image(pixels, ops.MEAN_RGB, ops.STDDEV_RGB)


KINDS: dict[str, type[Preprocessing]] = {
  "inception": Inception,
  "model_garden": ModelGarden,
}


def create(name: str, **fields: Any) -> Preprocessing:
  """Builds the preprocessing of a name in `KINDS`, with the fields given.

  Raises:
    UserError: if the name is unknown.
  """
  if name not in KINDS:
    raise UserError(f"preprocessing is {name!r}. {did_you_mean(name, KINDS)}")
  return KINDS[name](**fields)


def _preprocess_ops() -> Any:
  # Here, since it imports all of Model Garden's vision tasks: ten seconds.
  from official.vision.ops import preprocess_ops

  return preprocess_ops
