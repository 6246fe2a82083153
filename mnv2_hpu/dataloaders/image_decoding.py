"""Decodes an encoded image: all of it, or no more than a crop.

`decode_image` is the one definition of what an encoded image looks like: training,
evaluation, the export's `image_bytes` and, for PNG, preparation use it. Transparent
pixels are composited over black, which is what TensorFlow makes of a GIF's. An EXIF
orientation is ignored: TensorFlow's decoders, which are all that an export has, do not
read it.

A crop of a JPEG has exactly the pixels of the whole image, decoded and then cropped.
Left to itself the decoder differs at the left and right edge, where it lacks the
neighbors from which it interpolates the colors; so one column more is decoded on
either side.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

# From height, width, channels (int32 `[3]`) to begin and size of a crop, as `tf.slice`.
ChooseWindow = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

# A JPEG can be decoded at its size divided by these at little cost.
REDUCTIONS = (1, 2, 4, 8)

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_DEPTH_OFFSET = 24  # byte of a PNG that holds its bits per sample


def decode_image(encoded: tf.Tensor, significant_bits: int = 16) -> tf.Tensor:
  """Decodes a whole image; of an animation the first frame.

  Args:
    encoded: Scalar string: a JPEG, PNG, GIF or BMP file.
    significant_bits: Bits that a PNG of 16 bits per sample uses, 8 to 16; the upper
      eight of them become the pixel.

  Returns:
    `[h, w, 3]`, uint8.
  """
  is_png = tf.strings.substr(encoded, 0, len(PNG_SIGNATURE)) == PNG_SIGNATURE
  image = tf.cond(
    is_png,
    lambda: _decode_png(encoded, significant_bits),
    lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
  )
  return tf.ensure_shape(image, [None, None, 3])


def _decode_png(encoded: tf.Tensor, significant_bits: int) -> tf.Tensor:
  """Decodes a PNG of any kind over black."""

  def decode() -> tf.Tensor:  # 16 bits: the upper byte
    return tf.cast(tf.io.decode_png(encoded, channels=4), tf.int32)

  def decode_significant() -> tf.Tensor:
    samples = tf.cast(tf.io.decode_png(encoded, 4, tf.uint16), tf.int32)
    colors, alpha = samples[..., :3], samples[..., 3:]
    colors = tf.minimum(colors // 2 ** (significant_bits - 8), 255)
    return tf.concat([colors, alpha // 256], axis=-1)

  header = tf.strings.substr(encoded, PNG_DEPTH_OFFSET, 1)
  depth = tf.cast(tf.io.decode_raw(header, tf.uint8)[0], tf.int32)
  if significant_bits == 16:
    rgba = decode()
  else:
    rgba = tf.cond(depth == 16, decode_significant, decode)
  colors, alpha = rgba[..., :3], rgba[..., 3:]
  # Of less than 8 bits without alpha, TensorFlow gives the largest value as alpha.
  is_opaque = tf.reduce_all(alpha == tf.bitwise.left_shift(1, depth) - 1)
  alpha = tf.where(is_opaque, 255, alpha)
  return tf.cast((colors * alpha + 127) // 255, tf.uint8)  # rounded


def whole_image(image_shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Chooses all of an image."""
  return tf.zeros_like(image_shape), image_shape


def decode_window(
  encoded: tf.Tensor,
  choose_window: ChooseWindow,
  min_size: tuple[int, int] | None = None,
) -> tf.Tensor:
  """Decodes a crop of an image.

  Args:
    encoded: Scalar string: a JPEG, PNG, GIF or BMP file.
    choose_window: Returns the crop for a size.
    min_size: Height and width in pixels that suffice: a JPEG whose crop is at least
      twice as large in both dimensions is decoded at a half, a quarter or an eighth of
      its size. None decodes at full size.

  Returns:
    `[h, w, 3]`, uint8.
  """

  def decode_jpeg() -> tf.Tensor:
    # The third number is that of the file's color components: 1 or 4 are possible.
    shape = tf.concat([tf.image.extract_jpeg_shape(encoded)[:2], [3]], axis=0)
    begin, size = choose_window(shape)
    if min_size is None:
      return _decode_jpeg(encoded, shape[1], begin[:2], size[:2])
    return _decode_reduced_jpeg(encoded, shape, begin[:2], size[:2], min_size)

  def decode_other() -> tf.Tensor:
    image = decode_image(encoded)
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
  """Decodes at the smallest size at which the crop has at least `min_size`."""
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
