"""The input pipeline of image classification: TFRecords to batches of static shape.

Which records a pipeline reads is `record_reader`'s part, what is done to an image
`inception_preprocessing`'s. In evaluation all pipelines run as many batches: the last
ones are filled up with black images labelled `PADDING_LABEL`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import tensorflow as tf
from absl import logging
from official.vision.dataloaders import classification_input as upstream_input

from mnv2_hpu import errors
from mnv2_hpu.dataloaders import (
  corrupt_records,
  image_decoding,
  inception_preprocessing,
  record_files,
  record_reader,
)

if TYPE_CHECKING:
  from mnv2_hpu.configs.image_classification import DataConfig

PADDING_LABEL = -1

# An example: image `[height, width, 3]` float32, label int32 or int64.
Example = tuple[tf.Tensor, tf.Tensor]
ParseFn = Callable[[tf.Tensor, tf.Tensor], Example]
# Index in the pipeline, and the encoded image, to the network's input.
PreprocessFn = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def build_dataset(
  data: DataConfig,
  image_size: tuple[int, int],
  num_classes: int,
  input_context: tf.distribute.InputContext | None = None,
  *,
  start_step: int = 0,
  repeat: bool = False,
) -> tf.data.Dataset:
  """Builds the dataset of one input pipeline.

  Args:
    data: What is read, and how.
    image_size: Height and width of the images in pixels.
    num_classes: Labels lie in [0, num_classes).
    input_context: Which of how many pipelines this is, and how many replicas share a
      batch. None is the only pipeline of one replica.
    start_step: Step at which training resumes: its batches, and all after it, are bit
      for bit those that an uninterrupted run reads there.
    repeat: Whether evaluation is infinite too: all batches again and again.

  Returns:
    Batches `(images, labels)`: `[batch, height, width, 3]` float32 and `[batch]`
    int32, where batch is that of one replica. Infinite in training; in evaluation as
    many batches in every pipeline.

  Raises:
    UserError: If a field of `data` is out of its range, if files are missing or empty,
      if the replicas do not divide the batch, or if there are fewer examples than
      pipelines.
  """
  data.check(image_size, num_classes)
  context = input_context or tf.distribute.InputContext()
  batch_size = per_replica_batch_size(data.global_batch_size, context)
  files = record_files.match_files(data.input_path)
  logging.log_first_n(
    logging.INFO, "Images are decoded on the host, by TensorFlow's libjpeg-turbo.", 1
  )
  parse = _parse_fn(data, image_size, context)
  corrupt = corrupt_records.CorruptRecords(
    files,
    data.max_corrupt_records if data.is_training else 0,
    num_classes,
    data.image_field_key,
    data.label_field_key,
  )
  if data.is_training:
    num_consumed = start_step * records_per_step(data.global_batch_size, context)
    records = _training_records(data, files, context, num_consumed)
    examples = corrupt.replace(records, num_consumed, parse)
  else:
    records = record_reader.evaluation_records(files, context, data.cycle_length)
    records = records.cache() if data.cache else records
    num_records = record_reader.num_records_of(count_examples(data), context)
    examples = corrupt.refuse(records, num_records, parse)
    examples = examples.concatenate(_padding(data, image_size, context))
  batches = examples.batch(
    batch_size, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE
  )
  if repeat and not data.is_training:
    batches = batches.repeat()
  prefetch = data.prefetch_buffer_size
  prefetch = tf.data.AUTOTUNE if prefetch is None else prefetch
  return batches.prefetch(prefetch).with_options(_tf_data_options(data))


def _tf_data_options(data: DataConfig) -> tf.data.Options:
  options = tf.data.Options()
  options.autotune.enabled = True
  options.autotune.ram_budget = data.autotune_ram_mib * 2**20
  # Images are preprocessed in parallel; dividing each among threads only costs.
  options.threading.max_intra_op_parallelism = 1
  return options


def per_replica_batch_size(
  global_batch_size: int, context: tf.distribute.InputContext
) -> int:
  """Returns the examples a step of one replica.

  Raises:
    UserError: If the replicas do not divide the batch.
  """
  replicas = context.num_replicas_in_sync
  size, remainder = divmod(global_batch_size, replicas)
  if remainder:
    raise errors.UserError(
      f"The global batch size {global_batch_size} cannot be divided among {replicas} "
      f"replicas. Use a multiple of {replicas}, such as {(size + 1) * replicas}."
    )
  return size


def records_per_step(
  global_batch_size: int, context: tf.distribute.InputContext
) -> int:
  """Returns the records of a pipeline in a step: a batch for each of its replicas.

  Raises:
    UserError: If the replicas do not divide the batch.
  """
  replicas = context.num_replicas_in_sync // context.num_input_pipelines
  return replicas * per_replica_batch_size(global_batch_size, context)


def count_examples(data: DataConfig) -> int:
  """Returns the number of examples; counts the records where it is not stated."""
  if data.num_examples:
    return data.num_examples
  return record_files.count_examples(record_files.match_files(data.input_path))


def evaluation_steps(
  num_examples: int, global_batch_size: int, context: tf.distribute.InputContext
) -> int:
  """Returns the steps of an evaluation, the same in every pipeline.

  In a step each replica takes one batch, so that a pipeline which feeds several yields
  as many batches a step.
  """
  largest_shard = math.ceil(num_examples / context.num_input_pipelines)
  return math.ceil(largest_shard / records_per_step(global_batch_size, context))


def _training_records(
  data: DataConfig,
  files: list[str],
  context: tf.distribute.InputContext,
  num_consumed: int,
) -> tf.data.Dataset:
  """Returns the records of this pipeline's shard of every epoch, infinite."""
  return record_reader.training_records(
    files,
    context,
    seed=data.seed,
    num_consumed=num_consumed,
    shuffle_buffer_size=data.shuffle_buffer_size,
    num_examples=data.num_examples or None,
    cache=data.cache,
    cycle_length=data.cycle_length,
    deterministic=data.deterministic is not False,
  )


def _padding(
  data: DataConfig, image_size: tuple[int, int], context: tf.distribute.InputContext
) -> tf.data.Dataset:
  """Black images that make the batches of all pipelines full, and as many."""
  num_examples = count_examples(data)
  steps = evaluation_steps(num_examples, data.global_batch_size, context)
  wanted = steps * data.global_batch_size // context.num_input_pipelines
  missing = wanted - record_reader.num_records_of(num_examples, context)
  image, label = tf.zeros([*image_size, 3]), tf.constant(PADDING_LABEL, tf.int32)
  return tf.data.Dataset.from_tensors((image, label)).repeat(missing)


def _parse_fn(
  data: DataConfig, image_size: tuple[int, int], context: tf.distribute.InputContext
) -> ParseFn:
  """Returns what turns the index and the bytes of a record into an example."""
  features = {
    # No defaults: a record without its image or label is an error.
    data.image_field_key: tf.io.FixedLenFeature([], tf.string),
    data.label_field_key: tf.io.FixedLenFeature([], tf.int64),
  }
  if data.preprocessing == "model_garden":
    preprocess = _model_garden_preprocessing(data, image_size)
  else:
    seed = record_reader.fold_in(data.seed, "distort", context.input_pipeline_id)
    preprocess = _inception_preprocessing(data, image_size, seed)

  def parse(index: tf.Tensor, record: tf.Tensor) -> Example:
    example = tf.io.parse_single_example(record, features)
    image = preprocess(index, example[data.image_field_key])
    return tf.ensure_shape(image, [*image_size, 3]), example[data.label_field_key]

  return parse


def _inception_preprocessing(
  data: DataConfig, image_size: tuple[int, int], seed: int
) -> PreprocessFn:
  options = data.preprocessing_options
  if not data.is_training:
    return lambda _, image: inception_preprocessing.preprocess_for_eval(
      image, *image_size, options
    )
  return lambda index, image: inception_preprocessing.preprocess_for_train(
    image, *image_size, options, tf.stack([tf.constant(seed, tf.int64), index])
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
