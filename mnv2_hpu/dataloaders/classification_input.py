"""The input pipeline of image classification: TFRecords to batches of static shape.

Which records a pipeline reads is `record_reader`'s part, what is done to an image
`inception_preprocessing`'s. In evaluation all pipelines run as many batches: the last
ones are filled up with black images labelled `PADDING_LABEL`.
"""

import functools
import math
from collections.abc import Callable

import tensorflow as tf
from absl import logging
from official.vision.dataloaders import classification_input as garden_input

from mnv2_hpu import errors
from mnv2_hpu.dataloaders import (
  corrupt_records,
  inception_preprocessing,
  record_files,
  record_position,
  record_reader,
)
from mnv2_hpu.dataloaders.input_options import InputOptions

PADDING_LABEL = -1

# An example: image `[height, width, 3]` float32, label int32 or int64.
Example = tuple[tf.Tensor, tf.Tensor]
ParseFn = Callable[[tf.Tensor, tf.Tensor], Example]
# Index in the pipeline, and the parsed record, to the image.
PreprocessFn = Callable[[tf.Tensor, dict[str, tf.Tensor]], tf.Tensor]


def build_dataset(
  options: InputOptions, input_context: tf.distribute.InputContext | None = None
) -> tf.data.Dataset:
  """Builds the dataset of one input pipeline.

  Args:
    options: What is read, and how.
    input_context: Which of how many pipelines this is, and how many replicas share a
      batch. None is the only pipeline of one replica.

  Returns:
    Batches `(images, labels)`: `[batch, height, width, 3]` float32 and `[batch]`
    int32, where batch is that of one replica. Endless in training; in evaluation as
    many batches in every pipeline, and then from the start if they are to be repeated.

  Raises:
    UserError: If files are missing or empty, if the replicas do not divide the batch,
      or if there are fewer examples than pipelines.
  """
  context = input_context or tf.distribute.InputContext()
  batch_size = per_replica_batch_size(options.global_batch_size, context)
  files = record_files.match_files(options.input_path)
  logging.info("Images are decoded on the host, by TensorFlow's libjpeg-turbo.")
  build = _training_examples if options.is_training else _evaluation_examples
  dataset = build(options, files, context)
  prefetch = tf.data.AUTOTUNE if options.prefetch is None else options.prefetch
  batches = dataset.batch(
    batch_size, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE
  )
  if options.repeat_evaluation and not options.is_training:
    batches = batches.repeat()
  if options.is_training:  # evaluation did before it added padding
    batches = batches.map(functools.partial(_check_labels, options.num_classes))
  return batches.prefetch(prefetch).with_options(_tf_data_options(options))


def _tf_data_options(options: InputOptions) -> tf.data.Options:
  tf_data_options = tf.data.Options()
  tf_data_options.autotune.enabled = True
  tf_data_options.autotune.ram_budget = options.autotune_ram_mib * 2**20
  # Images are worked on in parallel; dividing each among threads only costs.
  tf_data_options.threading.max_intra_op_parallelism = 1
  return tf_data_options


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


def count_examples(options: InputOptions) -> int:
  """Returns the number of examples; counts the records where it is not stated."""
  if options.num_examples is not None:
    return options.num_examples
  return record_position.count_records(record_files.match_files(options.input_path))


def evaluation_steps(
  num_examples: int, global_batch_size: int, context: tf.distribute.InputContext
) -> int:
  """Returns the steps of an evaluation, the same in every pipeline.

  In a step each replica takes one batch, so that a pipeline which feeds several yields
  as many batches a step.
  """
  largest_share = math.ceil(num_examples / context.num_input_pipelines)
  return math.ceil(largest_share / records_per_step(global_batch_size, context))


def _training_examples(
  options: InputOptions, files: list[str], context: tf.distribute.InputContext
) -> tf.data.Dataset:
  """Distorted examples of this pipeline's share of every epoch, without end."""
  num_consumed = options.start_step * records_per_step(
    options.global_batch_size, context
  )
  records = record_reader.training_records(
    files,
    context,
    seed=options.seed,
    num_consumed=num_consumed,
    shuffle_buffer_size=options.shuffle_buffer_size,
    num_examples=options.num_examples,
    cache=options.cache,
    cycle_length=options.cycle_length,
    deterministic=options.deterministic,
  )
  distort_seed = record_reader.fold_in(
    options.seed, "distort", context.input_pipeline_id
  )
  corrupt = corrupt_records.CorruptRecords(
    files,
    options.max_corrupt_records,
    options.image_field_key,
    options.label_field_key,
  )
  return corrupt.skip(records, num_consumed, _parse_fn(options, distort_seed))


def _evaluation_examples(
  options: InputOptions, files: list[str], context: tf.distribute.InputContext
) -> tf.data.Dataset:
  """This pipeline's share of the examples in a fixed order, then padding."""
  num_examples = count_examples(options)
  records = record_reader.evaluation_records(
    files, context, num_examples, options.cycle_length
  )
  if options.cache:
    records = records.cache()
  examples = records.enumerate().map(
    _parse_fn(options, seed=0), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )
  examples = examples.map(functools.partial(_check_labels, options.num_classes))
  steps = evaluation_steps(num_examples, options.global_batch_size, context)
  per_step = options.global_batch_size // context.num_input_pipelines
  missing = steps * per_step - record_reader.evaluation_share(num_examples, context)
  padding = tf.data.Dataset.from_tensors(
    (tf.zeros([*options.image_size, 3]), tf.constant(PADDING_LABEL, tf.int32))
  )
  return examples.concatenate(padding.repeat(missing))


def _parse_fn(options: InputOptions, seed: int) -> ParseFn:
  """Returns what turns the index and the bytes of a record into an example."""
  features = {
    # No defaults: a record without its image or label is an error.
    options.image_field_key: tf.io.FixedLenFeature([], tf.string),
    options.label_field_key: tf.io.FixedLenFeature([], tf.int64),
  }
  if options.preprocessing == "model_garden":
    preprocess = _model_garden_preprocessing(options)
  else:
    preprocess = _inception_preprocessing(options, seed)

  def parse(index: tf.Tensor, record: tf.Tensor) -> Example:
    example = tf.io.parse_single_example(record, features)
    image = tf.ensure_shape(preprocess(index, example), [*options.image_size, 3])
    return image, example[options.label_field_key]

  return parse


def _check_labels(num_classes: int, images: tf.Tensor, labels: tf.Tensor) -> Example:
  """Stops at a label outside the classes, of one example or of a batch."""
  in_range = tf.reduce_all(tf.logical_and(labels >= 0, labels < num_classes))
  explanation = ["A label is outside 0 to", num_classes - 1, "labels:", labels]
  with tf.control_dependencies([tf.debugging.Assert(in_range, explanation, 1000)]):
    return images, tf.cast(labels, tf.int32)


def _inception_preprocessing(options: InputOptions, seed: int) -> PreprocessFn:
  height, width = options.image_size
  preprocessing = options.preprocessing_options

  def preprocess(index: tf.Tensor, example: dict[str, tf.Tensor]) -> tf.Tensor:
    image = example[options.image_field_key]
    if options.is_training:
      example_seed = tf.stack([tf.constant(seed, tf.int64), index])
      return inception_preprocessing.preprocess_for_train(
        image, height, width, preprocessing, example_seed
      )
    return inception_preprocessing.preprocess_for_eval(
      image, height, width, preprocessing.central_fraction
    )

  return preprocess


def _model_garden_preprocessing(
  options: InputOptions,
) -> PreprocessFn:
  def parser(decode_jpeg_only: bool) -> Callable[[dict[str, tf.Tensor]], Example]:
    return garden_input.Parser(
      output_size=list(options.image_size),
      num_classes=options.num_classes,
      image_field_key=options.image_field_key,
      label_field_key=options.label_field_key,
      decode_jpeg_only=decode_jpeg_only,
      aug_rand_hflip=options.preprocessing_options.flip,
      aug_crop=options.preprocessing_options.crop,
    ).parse_fn(options.is_training)

  # Model Garden decodes only the crop of a JPEG, and knows no other format then.
  parse_jpeg, parse_any = parser(True), parser(False)
  return lambda _, example: tf.cond(
    tf.io.is_jpeg(example[options.image_field_key]),
    lambda: parse_jpeg(example)[0],
    lambda: parse_any(example)[0],
  )
