"""The colour distortions of Inception preprocessing: slim's `distort_color`.

The fast mode, which every training image of the recipe goes through, is one formula
that XLA compiles: as TensorFlow's own operations, which each pass over the image, it
takes several times as long (docs/benchmarks.md).
"""

import functools
from collections.abc import Callable

import tensorflow as tf

BRIGHTNESS_DELTA = 32.0 / 255.0
SATURATION_RANGE = (0.5, 1.5)
HUE_DELTA = 0.2
CONTRAST_RANGE = (0.5, 1.5)

# The orders of the full mode, of which one is drawn an image; the fast mode has one.
_FULL_ORDERS = (
  ("brightness", "saturation", "hue", "contrast"),
  ("saturation", "brightness", "contrast", "hue"),
  ("contrast", "hue", "brightness", "saturation"),
  ("hue", "saturation", "contrast", "brightness"),
)
# From an image in [0, 1] and a number drawn from [0, 1).
_DISTORTIONS: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
  "brightness": lambda image, drawn: image + _brightness_delta(drawn),
  "saturation": lambda image, drawn: tf.image.adjust_saturation(
    image, _saturation_factor(drawn)
  ),
  "hue": lambda image, drawn: tf.image.adjust_hue(
    image, _between(-HUE_DELTA, HUE_DELTA, drawn)
  ),
  "contrast": lambda image, drawn: tf.image.adjust_contrast(
    image, _between(*CONTRAST_RANGE, drawn)
  ),
}
# The numbers that an image needs: the order, then one for each distortion.
NUM_DRAWS = 1 + len(_DISTORTIONS)


def distort_color(image: tf.Tensor, draws: tf.Tensor, fast_mode: bool) -> tf.Tensor:
  """Distorts the colours of an image, clips it, and maps it to the network's range.

  Args:
    image: `[height, width, 3]`, float32 in [0, 1].
    draws: `[NUM_DRAWS]`, float32, uniform in [0, 1).
    fast_mode: Brightness and saturation only, in this order. False adds hue and
      contrast, in one of four orders.

  Returns:
    `[height, width, 3]`, float32 in [-1, 1].
  """
  order, *amounts = tf.unstack(draws)
  drawn = dict(zip(_DISTORTIONS, amounts, strict=True))
  if fast_mode:
    return _brightness_and_saturation(
      image,
      _brightness_delta(drawn["brightness"]),
      _saturation_factor(drawn["saturation"]),
    )

  def apply(names: tuple[str, ...]) -> tf.Tensor:
    distorted = image
    for name in names:
      distorted = _DISTORTIONS[name](distorted, drawn[name])
    return distorted

  image = choose(order, [functools.partial(apply, names) for names in _FULL_ORDERS])
  # `tf.clip_by_value` takes two passes over the image.
  image = tf.raw_ops.ClipByValue(t=image, clip_value_min=0.0, clip_value_max=1.0)
  return to_model_range(image)


def to_model_range(image: tf.Tensor) -> tf.Tensor:
  """Maps [0, 1] to [-1, 1]."""
  return (image - 0.5) * 2.0


def choose(drawn: tf.Tensor, branches: list[Callable[[], tf.Tensor]]) -> tf.Tensor:
  """Returns what one of the branches computes, by a number drawn from [0, 1)."""
  if len(branches) == 1:
    return branches[0]()
  return tf.switch_case(tf.cast(drawn * len(branches), tf.int32), branches)


@tf.function(jit_compile=True, autograph=False)
def _brightness_and_saturation(
  image: tf.Tensor, delta: tf.Tensor, factor: tf.Tensor
) -> tf.Tensor:
  """Adds `delta`, multiplies the saturation by `factor`, clips, and maps to [-1, 1].

  In HSV the value is the largest channel, and the saturation the distance of the
  smallest from it, divided by it. Multiplying the saturation, of which 1 is the most,
  moves each channel away from the largest in proportion, as far as the smallest being
  0; the hue stays. So no conversion to HSV and back is needed.
  """
  image += delta
  # Slices, since XLA does not fuse reductions over so short an axis as well.
  red, green, blue = (image[..., channel : channel + 1] for channel in range(3))
  largest = tf.maximum(tf.maximum(red, green), blue)
  smallest = tf.minimum(tf.minimum(red, green), blue)
  # Where the largest channel is not positive TensorFlow makes the pixel grey.
  most = tf.math.divide_no_nan(tf.maximum(largest, 0.0), largest - smallest)
  image = largest - tf.minimum(factor, most) * (largest - image)
  return to_model_range(tf.clip_by_value(image, 0.0, 1.0))


def _brightness_delta(drawn: tf.Tensor) -> tf.Tensor:
  return _between(-BRIGHTNESS_DELTA, BRIGHTNESS_DELTA, drawn)


def _saturation_factor(drawn: tf.Tensor) -> tf.Tensor:
  return _between(*SATURATION_RANGE, drawn)


def _between(low: float, high: float, drawn: tf.Tensor) -> tf.Tensor:
  """Maps a number drawn from [0, 1) to [low, high)."""
  return low + drawn * (high - low)
