"""Decodes of an encoded image no more than the part that is asked for.

A part of a JPEG has exactly the pixels that decoding all of it and cutting would give.
Left to itself the decoder differs at the left and right edge, where it lacks the
neighbours from which it interpolates the colours; so one column more is decoded on
either side.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

# From height, width, channels (int32 `[3]`) to begin and size of a part, as `tf.slice`.
ChooseWindow = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

# A JPEG can be decoded at these parts of its size at little cost.
REDUCTIONS = (1, 2, 4, 8)


def whole_image(image_shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Chooses all of an image."""
  return tf.zeros_like(image_shape), image_shape


def decode_window(
  encoded: tf.Tensor,
  choose_window: ChooseWindow,
  min_size: tuple[int, int] | None = None,
) -> tf.Tensor:
  """Decodes a part of an image.

  Args:
    encoded: Scalar string: a JPEG, PNG, GIF or BMP file.
    choose_window: Says which part.
    min_size: Height and width that suffice in pixels: a JPEG whose part is at least
      twice as large both ways is decoded at a half, a quarter or an eighth of its
      size. None decodes at full size.

  Returns:
    `[h, w, 3]`, uint8.
  """

  def decode_jpeg() -> tf.Tensor:
    # The third number is that of the file's colour components: 1 or 4 are possible.
    shape = tf.concat([tf.image.extract_jpeg_shape(encoded)[:2], [3]], axis=0)
    begin, size = choose_window(shape)
    if min_size is None:
      return _decode_jpeg(encoded, shape[1], begin[:2], size[:2])
    return _decode_reduced_jpeg(encoded, shape, begin[:2], size[:2], min_size)

  def decode_other() -> tf.Tensor:
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.slice(image, *choose_window(tf.shape(image)))

  window = tf.cond(tf.io.is_jpeg(encoded), decode_jpeg, decode_other)
  return tf.ensure_shape(window, [None, None, 3])


def _decode_jpeg(
  encoded: tf.Tensor,
  width: tf.Tensor,
  begin: tf.Tensor,
  size: tf.Tensor,
  reduction: int = 1,
) -> tf.Tensor:
  """Decodes rows and columns `begin` to `begin + size` of an image of that width."""
  left = tf.maximum(begin[1] - 1, 0)
  right = tf.minimum(begin[1] + size[1] + 1, width)
  decoded = tf.image.decode_and_crop_jpeg(
    encoded,
    tf.stack([begin[0], left, size[0], right - left]),
    channels=3,
    ratio=reduction,
  )
  first = begin[1] - left
  return decoded[:, first : first + size[1]]


def _decode_reduced_jpeg(
  encoded: tf.Tensor,
  shape: tf.Tensor,
  begin: tf.Tensor,
  size: tf.Tensor,
  min_size: tuple[int, int],
) -> tf.Tensor:
  """Decodes at the smallest size at which the part has at least `min_size`."""
  spare = tf.reduce_min(size // tf.constant(min_size))
  index = tf.reduce_sum(tf.cast(spare >= tf.constant(REDUCTIONS[1:]), tf.int32))

  def decode(reduction: int) -> tf.Tensor:
    # Of the reduced image, whose sides the decoder rounds up.
    sides = -(-shape[:2] // reduction)
    first = begin // reduction
    return _decode_jpeg(
      encoded, sides[1], first, tf.minimum(size // reduction, sides - first), reduction
    )

  return tf.switch_case(index, [functools.partial(decode, r) for r in REDUCTIONS])
