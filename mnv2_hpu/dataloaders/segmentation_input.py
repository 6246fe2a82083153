"""The input of semantic segmentation: a record to an image and its mask.

Records have the keys of Model Garden's `segmentation_input`. Training scales, pads,
crops and flips, as `input_preprocess.py` of research/deeplab does; evaluation pads an
image at its own size. Padding is gray, 0 after normalization, and ignored in the mask.
Which records are read, and all else that is no segmenter's own, is `input_pipeline`'s
part.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import config_definitions as cfg

from mnv2_hpu import tfrecord
from mnv2_hpu.dataloaders import (
  corrupt_records,
  image_decoding,
  input_fields,
  input_pipeline,
  record_check,
)

_PADDING_PIXEL = 127.5

Size = tuple[int, int]
Pair = tuple[tf.Tensor, tf.Tensor]


def build_dataset(
  data: cfg.DataConfig,
  image_size: Size,
  num_classes: int,
  ignore_label: int,
  input_context: tf.distribute.InputContext | None = None,
  *,
  start_step: int = 0,
  repeat: bool = False,
) -> tf.data.Dataset:
  """Builds the dataset of one input pipeline; see `input_pipeline.build_dataset`.

  Args:
    data: Model Garden's fields of an input, `InputFields`, `num_examples`, and
      `preprocessing_options`, which are `SegmentationOptions`.
    image_size: Height and width of crops, and of padded images in evaluation.
    num_classes: Labels lie in [0, num_classes).
    ignore_label: Label of pixels that count nowhere.
    input_context: Which of how many pipelines this is.
    start_step: Step at which training resumes.
    repeat: Whether evaluation is infinite too.

  Returns:
    Batches `(images, {"masks": masks})`: float32 `[batch, height, width, 3]` in
    [-1, 1], and uint8 `[batch, height, width, 1]`.

  Raises:
    UserError: If a field of `data` is out of its range, if files are missing or empty,
      if the replicas do not divide the batch, or if there are fewer examples than
      pipelines.
  """
  _check_config(data, image_size, num_classes)

  def parse(seed: tf.Tensor, record: tf.Tensor) -> tuple[Any, tf.Tensor]:
    image, mask = _decode(record)
    is_valid = tf.reduce_all((mask < num_classes) | (mask == ignore_label))
    if data.is_training:
      options = data.preprocessing_options
      pair = augment(image, mask, image_size, ignore_label, options, seed)
    else:
      is_valid &= tf.reduce_all(tf.shape(image)[:2] <= tf.constant(image_size))
      pair = tuple(
        x[: image_size[0], : image_size[1]]
        for x in pad(image, mask, image_size, ignore_label)
      )
    return _example(*pair, image_size), is_valid

  with tf.device("CPU:0"):  # whatever the device of a strategy's scope
    padding = _example(
      tf.fill([*image_size, 3], _PADDING_PIXEL),
      tf.fill([*image_size, 1], tf.constant(ignore_label, tf.uint8)),
      image_size,
    )
  record_format = _record_format(data, image_size, num_classes, ignore_label)
  return input_pipeline.build_dataset(
    data,
    input_pipeline.RecordParser(parse, padding, record_format),
    input_context,
    start_step=start_step,
    repeat=repeat,
  )


def check_input(
  data: cfg.DataConfig, image_size: Size, num_classes: int, ignore_label: int
) -> record_check.CheckedRecords:
  """Looks at an input's fields, files and first records before anything is built.

  Args:
    data: What is read, and how, as for `build_dataset`.
    image_size: Height and width of the network's input in pixels.
    num_classes: Number of classes, background included.
    ignore_label: Label of pixels that count nowhere.

  Raises:
    UserError: If a field is out of its range, or as `record_check.check_records`.
  """
  _check_config(data, image_size, num_classes)
  return record_check.check_input(
    data, _record_format(data, image_size, num_classes, ignore_label)
  )


def _check_config(data: cfg.DataConfig, image_size: Size, num_classes: int) -> None:
  input_fields.check_minima(data, image_size, num_classes)
  data.preprocessing_options.check()


def _record_format(
  data: cfg.DataConfig, image_size: Size, num_classes: int, ignore_label: int
) -> corrupt_records.RecordFormat:
  """Returns what is expected of a record: an image, and a mask of its size."""

  def labels(example: Mapping[str, Sequence[Any]]) -> list[int]:
    mask = _decode_mask(tfrecord.encoded_image(example, tfrecord.MASK_KEY))
    size = [
      example.get(key, [0])[0] for key in (tfrecord.HEIGHT_KEY, tfrecord.WIDTH_KEY)
    ]
    if list(mask.shape[:2]) != size:
      raise tfrecord.CorruptRecordError(
        f"holds a mask of {mask.shape[0]} x {mask.shape[1]} pixels, but an image of "
        f"{size[0]} x {size[1]}"
      )
    if not data.is_training and any(np.greater(size, image_size)):
      raise tfrecord.LabelError(
        f"holds an image of {size[0]} x {size[1]} pixels; evaluation pads to "
        f"{image_size[0]} x {image_size[1]}, and never resizes. Set eval_image_size to "
        "the largest side of all images, rounded up to a multiple of the output stride "
        "plus 1."
      )
    found = np.unique(mask)
    beyond = found[(found >= num_classes) & (found != ignore_label)].tolist()
    if beyond:
      raise tfrecord.LabelError(
        f"has a mask with the label {beyond[0]}; num_classes is {num_classes}, which "
        f"allows 0 to {num_classes - 1}, and {ignore_label} is ignored. Set "
        "num_classes to the number of classes, or prepare the data again."
      )
    return found[found != ignore_label].tolist()

  return corrupt_records.RecordFormat(num_classes, tfrecord.encoded_image, labels)


def _decode_mask(encoded: bytes) -> np.ndarray:
  try:
    return tf.io.decode_png(encoded, channels=1).numpy()
  except tf.errors.InvalidArgumentError as error:
    raise tfrecord.CorruptRecordError(
      "holds a mask that is no PNG, whose labels alone are exact"
    ) from error


def _parse(record: tf.Tensor) -> dict[str, tf.Tensor]:
  keys = (tfrecord.IMAGE_KEY, tfrecord.MASK_KEY)
  # No defaults: a record without its image or mask is an error.
  features = {key: tf.io.FixedLenFeature([], tf.string) for key in keys}
  return tf.io.parse_single_example(record, features)


def _decode(record: tf.Tensor) -> Pair:
  """Returns an image, uint8 `[height, width, 3]`, and its mask, `[..., 1]`."""
  example = _parse(record)
  image = image_decoding.decode_image(example[tfrecord.IMAGE_KEY])
  mask = tf.io.decode_png(example[tfrecord.MASK_KEY], channels=1)
  sizes = tf.shape(image)[:2], tf.shape(mask)[:2]
  with tf.control_dependencies([tf.debugging.assert_equal(*sizes)]):
    return tf.identity(image), mask


def _example(
  image: tf.Tensor, mask: tf.Tensor, size: Size
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
  """Returns an example of static shape, its image mapped to [-1, 1]."""
  image = normalize(tf.ensure_shape(image, [*size, 3]))
  return image, {"masks": tf.ensure_shape(mask, [*size, 1])}


def normalize(pixels: tf.Tensor) -> tf.Tensor:
  """Maps pixel values, float32 in [0, 255], to [-1, 1]."""
  return pixels * (2 / 255) - 1


def read_examples(files: Sequence[str]) -> tf.data.Dataset:
  """Reads encoded images with their masks, each once, in file order.

  Args:
    files: Paths of TFRecords.

  Returns:
    Examples: encoded image (string), and labels, uint8 `[height, width]`.
  """

  def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    example = _parse(record)
    mask = tf.io.decode_png(example[tfrecord.MASK_KEY], channels=1)
    return example[tfrecord.IMAGE_KEY], mask[..., 0]

  return tf.data.TFRecordDataset(list(files)).map(parse, tf.data.AUTOTUNE)


def augment(
  image: tf.Tensor,
  mask: tf.Tensor,
  size: Size,
  ignore_label: int,
  options: input_fields.SegmentationFields,
  seed: tf.Tensor,
) -> Pair:
  """Scales, pads, crops and flips an image and its mask for training.

  Args:
    image: `[height, width, 3]`, pixels in [0, 255].
    mask: Labels, uint8 `[height, width, 1]`.
    size: Height and width of the crop.
    ignore_label: Label of what is padded.
    options: Range of the scale, and whether half of the images are mirrored.
    seed: `[2]`, int32 or int64.

  Returns:
    The image, float32, and the mask, of that size.
  """
  seeds = tf.unstack(tf.random.experimental.stateless_split(seed, num=3))
  pair = scale(image, mask, _draw_scale(options, seeds[0]))
  pair = pad(*pair, size, ignore_label)
  room = tf.cast(tf.shape(pair[0])[:2] - tf.constant(size), tf.float32)
  # Whole numbers, both ends included.
  places = tf.random.stateless_uniform([2], seeds[1], alg="philox") * (room + 1)
  offset = tf.cast(tf.minimum(tf.floor(places), room), tf.int32)
  is_flipped = tf.random.stateless_uniform([], seeds[2], alg="philox") < 0.5
  axes = tf.fill([tf.cast(is_flipped & options.flip, tf.int32)], 1)

  def crop(x: tf.Tensor) -> tf.Tensor:
    return tf.reverse(tf.slice(x, [*tf.unstack(offset), 0], [*size, -1]), axes)

  return crop(pair[0]), crop(pair[1])


def _draw_scale(options: input_fields.SegmentationFields, seed: tf.Tensor) -> tf.Tensor:
  low, high, step = options.min_scale, options.max_scale, options.scale_step
  drawn = tf.random.stateless_uniform([], seed, alg="philox")
  if not step:
    return low + drawn * (high - low)
  scales = np.linspace(low, high, int((high - low) / step + 1), dtype=np.float32)
  index = tf.minimum(tf.cast(drawn * len(scales), tf.int32), len(scales) - 1)
  return tf.gather(scales, index)


def scale(image: tf.Tensor, mask: tf.Tensor, factor: tf.Tensor) -> Pair:
  """Scales an image and its mask, with the centers of the corners kept in place.

  Args:
    image: `[height, width, 3]`, pixels in [0, 255].
    mask: Labels, uint8 `[height, width, 1]`.
    factor: Factor of height and width, a float32 scalar; their product is truncated.

  Returns:
    The image, float32, and the mask.
  """
  size = tf.cast(tf.cast(tf.shape(image)[:2], tf.float32) * factor, tf.int32)
  size = tf.maximum(size, 1)
  image, mask = tf.cast(image, tf.float32)[tf.newaxis], mask[tf.newaxis]
  return (
    tf.raw_ops.ResizeBilinear(images=image, size=size, align_corners=True)[0],
    tf.raw_ops.ResizeNearestNeighbor(images=mask, size=size, align_corners=True)[0],
  )


def pad(image: tf.Tensor, mask: tf.Tensor, size: Size, ignore_label: int) -> Pair:
  """Pads an image and its mask below and at the right, where they are smaller.

  Args:
    image: `[height, width, 3]`, pixels in [0, 255].
    mask: Labels, uint8 `[height, width, 1]`.
    size: Minimum height and width.
    ignore_label: Label of what is padded.

  Returns:
    The image, float32, and the mask.
  """
  mask_padding = tf.constant(ignore_label, mask.dtype)
  return pad_image(image, size), _pad(mask, size, mask_padding)


def pad_image(image: tf.Tensor, size: Size) -> tf.Tensor:
  """Returns an image, float32, padded as `pad` does; pixels are in [0, 255]."""
  return _pad(tf.cast(image, tf.float32), size, _PADDING_PIXEL)


def _pad(x: tf.Tensor, size: Size, value: tf.Tensor | float) -> tf.Tensor:
  missing = tf.maximum(tf.constant(size) - tf.shape(x)[:2], 0)
  paddings = tf.pad(
    tf.stack([tf.zeros_like(missing), missing], axis=1), [[0, 1], [0, 0]]
  )
  return tf.pad(x, paddings, constant_values=value)
