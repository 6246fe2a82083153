"""The color jitter of Inception preprocessing: slim's `distort_color`."""

import functools
from collections.abc import Callable

import tensorflow as tf

BRIGHTNESS_DELTA = 32.0 / 255.0
SATURATION_RANGE = (0.5, 1.5)
HUE_DELTA = 0.2
CONTRAST_RANGE = (0.5, 1.5)

# The orders in which slim applies the distortions; one is drawn an image.
_FAST_ORDERS = (("brightness", "saturation"),)
_FULL_ORDERS = (
  ("brightness", "saturation", "hue", "contrast"),
  ("saturation", "brightness", "contrast", "hue"),
  ("contrast", "hue", "brightness", "saturation"),
  ("hue", "saturation", "contrast", "brightness"),
)
# From an image in [0, 1] and a number drawn from [0, 1).
_DISTORTIONS: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
  "brightness": lambda image, drawn: (
    image + _between(-BRIGHTNESS_DELTA, BRIGHTNESS_DELTA, drawn)
  ),
  "saturation": lambda image, drawn: tf.image.adjust_saturation(
    image, _between(*SATURATION_RANGE, drawn)
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


def fast_amounts(draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the brightness that fast mode adds, and its factor of the saturation.

  Args:
    draws: `[NUM_DRAWS]`, as `distort_color` takes them.
  """
  drawn = dict(zip(_DISTORTIONS, tf.unstack(draws)[1:], strict=True))
  return (
    _between(-BRIGHTNESS_DELTA, BRIGHTNESS_DELTA, drawn["brightness"]),
    _between(*SATURATION_RANGE, drawn["saturation"]),
  )


def distort_color(image: tf.Tensor, draws: tf.Tensor, fast_mode: bool) -> tf.Tensor:
  """Jitters the colors of an image, and clips it.

  Args:
    image: `[height, width, 3]`, float32 in [0, 1].
    draws: `[NUM_DRAWS]`, float32, uniform in [0, 1).
    fast_mode: Brightness and saturation only, in this order. False adds hue and
      contrast, in one of four orders.

  Returns:
    `[height, width, 3]`, float32 in [0, 1].
  """
  order, *amounts = tf.unstack(draws)
  drawn = dict(zip(_DISTORTIONS, amounts, strict=True))

  def apply(names: tuple[str, ...]) -> tf.Tensor:
    distorted = image
    for name in names:
      distorted = _DISTORTIONS[name](distorted, drawn[name])
    return distorted

  orders = _FAST_ORDERS if fast_mode else _FULL_ORDERS
  image = choose(order, [functools.partial(apply, names) for names in orders])
  # `tf.clip_by_value` reads the image twice.
  return tf.raw_ops.ClipByValue(t=image, clip_value_min=0.0, clip_value_max=1.0)


def distort_batch(
  images: tf.Tensor, deltas: tf.Tensor, factors: tf.Tensor
) -> tf.Tensor:
  """Changes brightness and saturation of each image by its own amounts, and clips.

  In HSV the saturation's factor scales each color's distance to the brightest one, up
  to where the darkest is 0: one formula, which a device fuses, for `distort_color`'s
  way to HSV and back.

  Args:
    images: `[batch, height, width, 3]`, float32 in [0, 1].
    deltas: Brightness that is added, `[batch]`, float32.
    factors: The saturation's, `[batch]`, float32.

  Returns:
    `[batch, height, width, 3]`, float32 in [0, 1].
  """
  images += deltas[:, None, None, None]
  value = tf.reduce_max(images, axis=-1, keepdims=True)
  spread = value - tf.reduce_min(images, axis=-1, keepdims=True)
  limit = tf.where(value > 0.0, value / tf.maximum(spread, 1e-12), 0.0)
  scale = tf.minimum(factors[:, None, None, None], limit)
  return tf.clip_by_value(value - (value - images) * scale, 0.0, 1.0)


def choose(drawn: tf.Tensor, branches: list[Callable[[], tf.Tensor]]) -> tf.Tensor:
  """Returns what one of the branches computes, by a number drawn from [0, 1)."""
  if len(branches) == 1:
    return branches[0]()
  return tf.switch_case(tf.cast(drawn * len(branches), tf.int32), branches)


def _between(low: float, high: float, drawn: tf.Tensor) -> tf.Tensor:
  """Maps a number drawn from [0, 1) to [low, high)."""
  return low + drawn * (high - low)
