"""Inception preprocessing: one definition for training, evaluation and serving.

What slim's `preprocessing/inception_preprocessing.py` computes under the name
`inception_v2`, the preprocessing that trained MobileNetV2 (paper, section 6.1).
All random choices are functions of a stateless seed, so an input pipeline is
reproducible however many threads run it. The crop is chosen before the image is
decoded, and only that part of a JPEG is decoded (`image_decoding`).

Images are resized as TensorFlow 1 did: corners not aligned, no half-pixel centres.
"""

import functools
from typing import Any

import tensorflow as tf

from mnv2_hpu.dataloaders import color_distortion, image_decoding
from mnv2_hpu.dataloaders.input_fields import PreprocessingOptions
from mnv2_hpu.native import library

MAX_CROP_ATTEMPTS = 100

_FAST_RESIZE_METHODS = (tf.compat.v1.image.ResizeMethod.BILINEAR,)
_FULL_RESIZE_METHODS = (
  tf.compat.v1.image.ResizeMethod.BILINEAR,
  tf.compat.v1.image.ResizeMethod.NEAREST_NEIGHBOR,
  tf.compat.v1.image.ResizeMethod.BICUBIC,
  tf.compat.v1.image.ResizeMethod.AREA,
)


DEFAULT_OPTIONS = PreprocessingOptions()


def preprocess_for_train(
  image: tf.Tensor,
  height: int,
  width: int,
  options: PreprocessingOptions = DEFAULT_OPTIONS,
  seed: tf.Tensor | None = None,
) -> tf.Tensor | dict[str, tf.Tensor]:
  """Returns a randomly cropped, flipped and color-jittered image.

  Args:
    image: `[h, w, 3]`, uint8, or float in [0, 1]; or a scalar string, the content of a
      JPEG, PNG, GIF or BMP file.
    height: Height of the result in pixels.
    width: Width of the result in pixels.
    options: What is done.
    seed: `[2]`, int32 or int64, from which every random choice follows. None draws
      one from TensorFlow's global generator.

  Returns:
    `[height, width, 3]`, float32 in [-1, 1]; with `preprocess_on_device` what
    `finish_on_device` takes, without the batch dimension.
  """
  if seed is None:
    seed = tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
  crop_seed, distortion_seed = tf.unstack(
    tf.random.experimental.stateless_split(seed, num=2)
  )
  window = image_decoding.whole_image
  if options.crop:
    window = functools.partial(distorted_crop_window, options=options, seed=crop_seed)
  min_size = (height, width) if options.reduced_decoding else None
  cropped = _crop(image, window, min_size)
  finish = resize_for_device if options.preprocess_on_device else distort_crop
  return finish(cropped, height, width, options, distortion_seed)


def preprocess_for_eval(
  image: tf.Tensor,
  height: int,
  width: int,
  options: PreprocessingOptions = DEFAULT_OPTIONS,
  *,
  native: bool = False,
) -> tf.Tensor:
  """Returns the central part of an image, resized; nothing random.

  Args:
    image: `[h, w, 3]`, uint8, or float in [0, 1]; or a scalar string, the content of a
      JPEG, PNG, GIF or BMP file.
    height: Height of the result in pixels.
    width: Width of the result in pixels.
    options: Its `central_fraction`, which counts where `crop` is true.
    native: Whether the operation in C++ does it where it is built (`native.library`),
      bit for bit; an export, which other machines load, has TensorFlow's alone.

  Returns:
    `[height, width, 3]`, float32 in [-1, 1]. The aspect ratio is not kept.
  """
  crop = _central_crop(image, options)
  operations = _native_operations(crop) if native else None
  if operations is not None:
    return operations.mnv2_hpu_resize_for_eval(crop=crop, height=height, width=width)
  return to_minus_one_one(_resize(crop, height, width))


def resize_for_eval(
  image: tf.Tensor, height: int, width: int, options: PreprocessingOptions
) -> tf.Tensor:
  """Does what `preprocess_for_eval` does, but for the range: float32 in [0, 1]."""
  return _resize(_central_crop(image, options), height, width)


def _central_crop(image: tf.Tensor, options: PreprocessingOptions) -> tf.Tensor:
  window = functools.partial(
    central_crop_window,
    central_fraction=options.central_fraction if options.crop else 1.0,
  )
  return _crop(image, window)


def distorted_crop_window(
  image_shape: tf.Tensor, options: PreprocessingOptions, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Draws the part of the image that a training step sees.

  Args:
    image_shape: `[3]`, int32: height, width, channels.
    options: Limits of area, aspect ratio and coverage.
    seed: `[2]`, int32 or int64.

  Returns:
    Begin and size of the window, each `[3]`, int32, for `tf.slice`. The whole image
    where 100 attempts found no window within the limits.
  """
  begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
    image_shape,
    bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
    seed=seed,
    min_object_covered=options.crop_min_object_covered,
    aspect_ratio_range=options.crop_aspect_ratio_range,
    area_range=options.crop_area_range,
    max_attempts=MAX_CROP_ATTEMPTS,
    use_image_if_no_bounding_boxes=True,
  )
  return begin, size


def central_crop_window(
  image_shape: tf.Tensor, central_fraction: float
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns begin and size, each `[3]`, int32, of the central part of an image.

  Args:
    image_shape: `[3]`, int32: height, width, channels.
    central_fraction: Fraction of each side that is kept, in (0, 1]. A side of n
      pixels starts at `int((n - fraction * n) / 2)` and loses as much at its end.
  """
  sides = tf.cast(image_shape[:2], tf.float64)
  start = tf.cast((sides - sides * central_fraction) / 2.0, tf.int32)
  begin = tf.concat([start, [0]], axis=0)
  return begin, image_shape - 2 * begin


def distort_crop(
  crop: tf.Tensor,
  height: int,
  width: int,
  options: PreprocessingOptions,
  seed: tf.Tensor,
) -> tf.Tensor:
  """Does what training does to the pixels of a crop: resize, flip, color jitter, range.

  One operation in C++ does it where it is built (`native.library`), within rounding.

  Args:
    crop: `[h, w, 3]`, uint8, or float in [0, 1].
    height: Height of the result in pixels.
    width: Width of the result in pixels.
    options: What is done.
    seed: `[2]`, int32 or int64.

  Returns:
    `[height, width, 3]`, float32 in [-1, 1].
  """
  draws = _draws(seed)
  operations = _native_operations(crop, options.fast_mode)
  if operations is not None:
    delta, factor = _fast_amounts(draws, options)
    return operations.mnv2_hpu_distort_crop(
      crop=crop,
      flip=draws[1] < 0.5 if options.flip else False,
      brightness_delta=delta,
      saturation_factor=factor,
      height=height,
      width=width,
    )
  methods = _FAST_RESIZE_METHODS if options.fast_mode else _FULL_RESIZE_METHODS
  resize = functools.partial(_resize, crop, height, width)
  image = color_distortion.choose(
    draws[0], [functools.partial(resize, method) for method in methods]
  )
  image = _flip(image, draws, options)
  if options.color_distortion:
    image = color_distortion.distort_color(image, draws[2:], options.fast_mode)
  return to_minus_one_one(image)


def resize_for_device(
  crop: tf.Tensor,
  height: int,
  width: int,
  options: PreprocessingOptions,
  seed: tf.Tensor,
) -> dict[str, tf.Tensor]:
  """Does the first part of `distort_crop` in fast mode, and draws for the second.

  Args:
    crop: `[h, w, 3]`, uint8, or float in [0, 1].
    height: Height of the result in pixels.
    width: Width of the result in pixels.
    options: What is done.
    seed: `[2]`, int32 or int64.

  Returns:
    What `finish_on_device` takes, without the batch dimension.
  """
  draws = _draws(seed)
  operations = _native_operations(crop, options.fast_mode)
  if operations is not None:
    image = operations.mnv2_hpu_resize_crop(
      crop=crop,
      flip=draws[1] < 0.5 if options.flip else False,
      height=height,
      width=width,
    )
  else:
    resized = _flip(_resize(crop, height, width), draws, options)
    image = tf.saturate_cast(tf.round(resized * 255.0), tf.uint8)
  return {"image": image, "colors": tf.stack(_fast_amounts(draws, options))}


def finish_on_device(features: dict[str, tf.Tensor]) -> tf.Tensor:
  """Does the second part of `distort_crop` in fast mode: colors and range.

  Args:
    features: `image`, uint8 `[batch, height, width, 3]`, and `colors`, float32
      `[batch, 2]`: the brightness that is added, and the saturation's factor.

  Returns:
    `[batch, height, width, 3]`, float32 in [-1, 1]: within rounding what `distort_crop`
    returns of such images, which are whole levels here before colors change.
  """
  images = tf.cast(features["image"], tf.float32) * (1.0 / 255.0)
  images = color_distortion.distort_batch(
    images, *tf.unstack(features["colors"], axis=1)
  )
  return to_minus_one_one(images)


def zeros_for_device(height: int, width: int) -> dict[str, tf.Tensor]:
  """Returns what `resize_for_device` returns of an image, of zeros."""
  return {"image": tf.zeros([height, width, 3], tf.uint8), "colors": tf.zeros([2])}


def _draws(seed: tf.Tensor) -> tf.Tensor:
  """Draws all that an image needs in one operation, of which a step runs thousands."""
  return tf.random.stateless_uniform(
    [2 + color_distortion.NUM_DRAWS], seed, alg="philox"
  )


def _native_operations(crop: tf.Tensor, fast_mode: bool = True) -> Any | None:
  return library.load() if fast_mode and crop.dtype == tf.uint8 else None


def _fast_amounts(draws: tf.Tensor, options: PreprocessingOptions) -> tuple[Any, Any]:
  """Returns the brightness that fast mode adds, and the saturation's factor."""
  if not options.color_distortion:
    return 0.0, 1.0
  return color_distortion.fast_amounts(draws[2:])


def _flip(
  image: tf.Tensor, draws: tf.Tensor, options: PreprocessingOptions
) -> tf.Tensor:
  if not options.flip:
    return image
  # Along the axes listed: width, or none.
  return tf.reverse(image, tf.fill([tf.cast(draws[1] < 0.5, tf.int32)], 1))


def _crop(
  image: tf.Tensor,
  window: image_decoding.ChooseWindow,
  min_size: tuple[int, int] | None = None,
) -> tf.Tensor:
  """Returns a part of an image, which is decoded first if it is a file's content."""
  if image.dtype == tf.string:
    return image_decoding.decode_window(image, window, min_size)
  return tf.slice(image, *window(tf.shape(image)))


def _resize(
  image: tf.Tensor,
  height: int,
  width: int,
  method: int = tf.compat.v1.image.ResizeMethod.BILINEAR,
) -> tf.Tensor:
  """Resizes as TensorFlow 1 did; returns `[height, width, 3]`, float32 in [0, 1]."""
  is_float = image.dtype.is_floating
  if not is_float and image.dtype != tf.uint8:
    image = tf.image.convert_image_dtype(image, tf.float32)
    is_float = True
  # Resized before it is scaled: far fewer pixels to convert.
  resized = tf.compat.v1.image.resize(image, [height, width], method=method)
  resized = tf.cast(resized, tf.float32)
  resized = tf.ensure_shape(resized, [height, width, 3])
  return resized if is_float else resized * (1.0 / 255.0)


def to_minus_one_one(image: tf.Tensor) -> tf.Tensor:
  """Maps [0, 1] to [-1, 1]."""
  return (image - 0.5) * 2.0
