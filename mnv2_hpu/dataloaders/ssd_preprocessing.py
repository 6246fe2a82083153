"""What TF1's SSD does to an image: for training, evaluation and serving.

Training first augments image and boxes: `random_horizontal_flip` and `ssd_random_crop`
of the TF Object Detection API (`core/preprocessor.py`), in this order, on the image at
its own size. It differs from the SSD paper: a box is kept by the covered share of its
own area, whatever its centre, and neither colors nor scale (zoom out) change. All
random choices are functions of a stateless seed.

Boxes are `[n, 4]`, float32: ymin, xmin, ymax, xmax as fractions of the image.
"""

import tensorflow as tf

# Equally likely: the share of a box that a crop must cover, of one box at least.
MIN_OBJECT_COVERED = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
UNCHANGED_PROBABILITY = 0.15
AREA_RANGE = (0.1, 1.0)  # fractions of the image's area
ASPECT_RATIO_RANGE = (0.5, 2.0)  # width / height
MAX_CROP_ATTEMPTS = 100


def random_flip(
  image: tf.Tensor, boxes: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Mirrors one half of all images, left to right, with their boxes.

  Args:
    image: `[height, width, channels]`.
    boxes: `[n, 4]`, float32.
    seed: `[2]`, int32 or int64.

  Returns:
    Image and boxes.
  """
  is_flipped = tf.random.stateless_uniform([], seed, alg="philox") < 0.5
  # Along the axes listed: width, or none.
  image = tf.reverse(image, tf.fill([tf.cast(is_flipped, tf.int32)], 1))
  ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=-1)
  flipped = tf.stack([ymin, 1.0 - xmax, ymax, 1.0 - xmin], axis=-1)
  return image, tf.where(is_flipped, flipped, boxes)


def random_crop(
  image: tf.Tensor, boxes: tf.Tensor, classes: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Crops an image, and keeps the boxes of which the crop holds enough.

  Args:
    image: `[height, width, channels]`.
    boxes: `[n, 4]`, float32 in [0, 1].
    classes: `[n]`, labels of the boxes.
    seed: `[2]`, int32 or int64.

  Returns:
    Crop, boxes in it and their classes; of 15% of the images everything.
  """
  begin, size, window, min_covered = draw_window(tf.shape(image), boxes, seed)
  boxes, classes = boxes_in_window(boxes, classes, window, min_covered)
  return tf.slice(image, begin, size), boxes, classes


def draw_window(
  image_shape: tf.Tensor, boxes: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
  """Draws a crop.

  Args:
    image_shape: `[3]`, int32: height, width, channels.
    boxes: `[n, 4]`, float32 in [0, 1]. Where there are none, the image is the box.
    seed: `[2]`, int32 or int64.

  Returns:
    Begin and size of the crop, `[3]`, int32, for `tf.slice`; the crop as a box, `[4]`,
    float32; the share of its own area that a box has in a crop to be kept.
  """
  crop_seed, choice_seed = tf.unstack(
    tf.random.experimental.stateless_split(seed, num=2)
  )
  choice, coin = tf.unstack(tf.random.stateless_uniform([2], choice_seed, alg="philox"))
  index = tf.cast(choice * len(MIN_OBJECT_COVERED), tf.int32)
  min_covered = tf.gather(tf.constant(MIN_OBJECT_COVERED), index)
  begin, size, window = tf.image.stateless_sample_distorted_bounding_box(
    image_shape,
    bounding_boxes=boxes[tf.newaxis],
    seed=crop_seed,
    min_object_covered=min_covered,
    aspect_ratio_range=ASPECT_RATIO_RANGE,
    area_range=AREA_RANGE,
    max_attempts=MAX_CROP_ATTEMPTS,
    use_image_if_no_bounding_boxes=True,
  )
  unchanged = coin <= UNCHANGED_PROBABILITY
  return (
    tf.where(unchanged, 0, begin),
    tf.where(unchanged, image_shape, size),
    tf.where(unchanged, tf.constant([0.0, 0.0, 1.0, 1.0]), window[0, 0]),
    tf.where(unchanged, 0.0, min_covered),
  )


def boxes_in_window(
  boxes: tf.Tensor, classes: tf.Tensor, window: tf.Tensor, min_covered: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Keeps the boxes of which a crop holds enough, as fractions of the crop.

  Args:
    boxes: `[n, 4]`, float32, none without area.
    classes: `[n]`, labels of the boxes.
    window: The crop as a box, `[4]`, float32.
    min_covered: Share of its own area that a box has in the crop to be kept; 0 keeps
      all that are not wholly outside.

  Returns:
    Boxes, clipped to the crop, `[kept, 4]`, and their classes, `[kept]`.
  """
  begin, end = window[:2], window[2:]
  inner_begin = tf.maximum(boxes[:, :2], begin)
  inner_sides = tf.maximum(tf.minimum(boxes[:, 2:], end) - inner_begin, 0.0)
  areas = tf.reduce_prod(boxes[:, 2:] - boxes[:, :2], axis=-1)
  covered = tf.reduce_prod(inner_sides, axis=-1) / areas
  is_inside = tf.reduce_all((boxes[:, :2] < end) & (boxes[:, 2:] > begin), axis=-1)
  kept = is_inside & (covered >= min_covered)
  corners = tf.reshape(tf.boolean_mask(boxes, kept), [-1, 2, 2])
  in_window = tf.clip_by_value((corners - begin) / (end - begin), 0.0, 1.0)
  return tf.reshape(in_window, [-1, 4]), tf.boolean_mask(classes, kept)


def preprocess_image(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
  """Scales and resizes an image as TensorFlow 1's SSD did, in this order.

  Args:
    image: `[h, w, 3]`, uint8.
    image_size: Height and width of the result in pixels.

  Returns:
    `[height, width, 3]`, float32 in [-1, 1]: bilinear, corners not aligned, no
    half-pixel centres. The aspect ratio is not kept.
  """
  return resize(normalize(tf.cast(image, tf.float32)), image_size)


def resize(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
  """Resizes `[h, w, 3]` as `preprocess_image` does; returns float32."""
  resized = tf.compat.v1.image.resize(image, image_size)  # bilinear
  return tf.ensure_shape(resized, [*image_size, 3])


def normalize(pixels: tf.Tensor) -> tf.Tensor:
  """Maps [0, 255] to [-1, 1]."""
  return pixels * (2.0 / 255.0) - 1.0
