"""The input of image classification: a record to an image and its label.

What is done to an image is `inception_preprocessing`'s part, everything else
`input_pipeline`'s. Padding of an evaluation is black images labelled `PADDING_LABEL`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from official.vision.dataloaders import classification_input as upstream_input

from mnv2_hpu import tfrecord
from mnv2_hpu.dataloaders import (
  corrupt_records,
  image_decoding,
  inception_preprocessing,
  input_pipeline,
)

if TYPE_CHECKING:
  from mnv2_hpu.configs.image_classification import DataConfig

PADDING_LABEL = -1

# Seed and encoded image to the network's input, or to what the device makes it of.
PreprocessFn = Callable[[tf.Tensor, tf.Tensor], Any]


def build_dataset(
  data: DataConfig,
  image_size: tuple[int, int],
  num_classes: int,
  input_context: tf.distribute.InputContext | None = None,
  *,
  start_step: int = 0,
  repeat: bool = False,
) -> tf.data.Dataset:
  """Builds the dataset of one input pipeline; see `input_pipeline.build_dataset`.

  Args:
    data: What is read, and how.
    image_size: Height and width of the images in pixels.
    num_classes: Labels lie in [0, num_classes).
    input_context: Which of how many pipelines this is.
    start_step: Step at which training resumes.
    repeat: Whether evaluation is infinite too.

  Returns:
    Batches `(images, labels)`: `[batch, height, width, 3]` float32 and `[batch]`
    int32, where batch is that of one replica. With `preprocess_on_device` images are
    what `inception_preprocessing.finish_on_device` takes.

  Raises:
    UserError: If a field of `data` is out of its range, if files are missing or empty,
      if the replicas do not divide the batch, or if there are fewer examples than
      pipelines.
  """
  data.check(image_size, num_classes)
  parser = input_pipeline.RecordParser(
    _parse_fn(data, image_size, num_classes),
    (_zero_image(data, image_size), tf.constant(PADDING_LABEL, tf.int32)),
    record_format(num_classes, data.image_field_key, data.label_field_key),
  )
  return input_pipeline.build_dataset(
    data, parser, input_context, start_step=start_step, repeat=repeat
  )


def record_format(
  num_classes: int,
  image_key: str = tfrecord.IMAGE_KEY,
  label_key: str = tfrecord.LABEL_KEY,
) -> corrupt_records.RecordFormat:
  """Returns what is expected of a record: an image and one label.

  Args:
    num_classes: Labels are to lie in [0, num_classes).
    image_key: Feature that holds the encoded image.
    label_key: Feature that holds the label, an int64.
  """
  return corrupt_records.RecordFormat(
    num_classes,
    lambda example: tfrecord.encoded_image(example, image_key),
    lambda example: [tfrecord.label_of(example, label_key, num_classes)],
  )


def _parse_fn(
  data: DataConfig, image_size: tuple[int, int], num_classes: int
) -> corrupt_records.ReadFn:
  """Returns what turns the seed and the bytes of a record into an example."""
  zeros = _zero_image(data, image_size)
  features = {
    # No defaults: a record without its image or label is an error.
    data.image_field_key: tf.io.FixedLenFeature([], tf.string),
    data.label_field_key: tf.io.FixedLenFeature([], tf.int64),
  }
  if data.preprocessing == "model_garden":
    preprocess = _model_garden_preprocessing(data, image_size)
  else:
    preprocess = _inception_preprocessing(data, image_size)

  def parse(
    seed: tf.Tensor, record: tf.Tensor
  ) -> tuple[tuple[Any, tf.Tensor], tf.Tensor]:
    example = tf.io.parse_single_example(record, features)
    image = preprocess(seed, example[data.image_field_key])
    label = example[data.label_field_key]
    valid = tf.logical_and(label >= 0, label < num_classes)
    image = tf.nest.map_structure(
      lambda tensor, like: tf.ensure_shape(tensor, like.shape), image, zeros
    )
    return (image, tf.cast(label, tf.int32)), valid

  return parse


def _zero_image(data: DataConfig, image_size: tuple[int, int]) -> Any:
  """Returns an image of the form that this input has, of zeros."""
  if data.is_training and data.preprocessing_options.preprocess_on_device:
    return inception_preprocessing.zeros_for_device(*image_size)
  return tf.zeros([*image_size, 3])


def _inception_preprocessing(
  data: DataConfig, image_size: tuple[int, int]
) -> PreprocessFn:
  options = data.preprocessing_options
  if not data.is_training:
    return lambda _, image: inception_preprocessing.preprocess_for_eval(
      image, *image_size, options, native=True
    )
  return lambda seed, image: inception_preprocessing.preprocess_for_train(
    image, *image_size, options, seed
  )


def _model_garden_preprocessing(
  data: DataConfig, image_size: tuple[int, int]
) -> PreprocessFn:
  # Model Garden decodes only the crop of a JPEG, and knows no other format then; of
  # another it would drop alpha, and no animation.
  parse_jpeg, parse_any = (
    upstream_input.Parser(
      output_size=list(image_size),
      num_classes=1,  # it maps no label
      image_field_key="image",
      label_field_key="label",
      decode_jpeg_only=decode_jpeg_only,
      aug_rand_hflip=data.preprocessing_options.flip,
      aug_crop=data.preprocessing_options.crop,
    ).parse_fn(data.is_training)
    for decode_jpeg_only in (True, False)
  )

  def preprocess(_: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    example = {"image": image, "label": tf.zeros([], tf.int64)}
    return tf.cond(
      tf.io.is_jpeg(image),
      lambda: parse_jpeg(example)[0],
      lambda: parse_any({**example, "image": image_decoding.decode_image(image)})[0],
    )

  return preprocess
