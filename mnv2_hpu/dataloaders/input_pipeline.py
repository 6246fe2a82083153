"""The input pipeline of every task: TFRecords to batches of static shape.

A task brings what it makes of a record, a `RecordParser`; which records a pipeline
reads is `record_reader`'s part, what happens to corrupt ones `corrupt_records`'. In
evaluation all pipelines run as many batches: the last ones are filled up with the
task's padding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from absl import logging

from mnv2_hpu import errors
from mnv2_hpu.data_service import reader
from mnv2_hpu.dataloaders import corrupt_records, record_files, record_reader

if TYPE_CHECKING:
  from official.core import config_definitions as cfg


@dataclasses.dataclass(frozen=True)
class RecordParser:
  """What a task makes of a record.

  Attributes:
    parse: From a seed (int64 `[2]`, another one for each record of each epoch) and a
      record (string scalar) to an example and whether the labels of the record lie
      within the classes (bool scalar). An example is a nest of tensors of static
      shape, without a batch dimension. An error makes the record a corrupt one.
    padding: Example that fills the last batches of an evaluation, marked by its labels
      as one that counts nowhere.
    record_format: What is expected of a record, in Python, to say what is wrong.
  """

  parse: Callable[[tf.Tensor, tf.Tensor], tuple[Any, tf.Tensor]]
  padding: Any
  record_format: corrupt_records.RecordFormat


# AutoGraph would rewrite every function that is traced here, for seconds at each start,
# for the sake of Python's `if` and `for` over tensors, which none of them has.
@tf.autograph.experimental.do_not_convert
def build_dataset(
  data: cfg.DataConfig,
  parser: RecordParser,
  input_context: tf.distribute.InputContext | None = None,
  *,
  start_step: int = 0,
  repeat: bool = False,
) -> tf.data.Dataset:
  """Builds the dataset of one input pipeline.

  Args:
    data: Model Garden's fields of an input, `input_fields.InputFields` and
      `num_examples`, checked by the task.
    parser: What the task makes of a record.
    input_context: Which of how many pipelines this is, and how many replicas share a
      batch. None is the only pipeline of one replica.
    start_step: Step at which training resumes: its batches, and all after it, are bit
      for bit those that an uninterrupted run reads there.
    repeat: Whether evaluation is infinite too: all batches again and again.

  Returns:
    Batches of the parser's examples, each tensor `[batch, ...]`, where batch is that of
    one replica. Infinite in training; in evaluation as many batches in every pipeline.

  Raises:
    UserError: If files are missing or empty, if the replicas do not divide the batch,
      or if there are fewer examples than pipelines.
  """
  context = input_context or tf.distribute.InputContext()
  batch_size = per_replica_batch_size(data.global_batch_size, context)
  files = record_files.match_files(data.input_path)
  logging.log_first_n(
    logging.INFO, "Images are decoded on the host, by TensorFlow's libjpeg-turbo.", 1
  )
  read = _read_fn(data.seed, parser, context)
  corrupt = corrupt_records.CorruptRecords(
    files, data.max_corrupt_records if data.is_training else 0, parser.record_format
  )
  num_consumed = start_step * records_per_step(data.global_batch_size, context)
  if data.is_training and data.service_address:
    batches = reader.training_batches(
      data,
      files,
      context,
      batch_size=batch_size,
      num_consumed=num_consumed,
      read=read,
      padding=parser.padding,
      corrupt=corrupt,
      options=_tf_data_options(data),
    )
    return _prefetch(batches, data)
  if data.is_training:
    records = _training_records(data, files, context, num_consumed)
    examples = corrupt.replace(records, num_consumed, read)
  else:
    records = record_reader.evaluation_records(files, context, data.cycle_length)
    records = records.cache() if data.cache else records
    num_records = record_reader.num_records_of(count_examples(data), context)
    examples = corrupt.refuse(records, num_records, read)
    padding = tf.data.Dataset.from_tensors(parser.padding)
    examples = examples.concatenate(padding.repeat(_num_padding(data, context)))
  batches = examples.batch(
    batch_size, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE
  )
  if repeat and not data.is_training:
    batches = batches.repeat()
  return _prefetch(batches, data)


def _prefetch(batches: tf.data.Dataset, data: cfg.DataConfig) -> tf.data.Dataset:
  prefetch = data.prefetch_buffer_size
  prefetch = tf.data.AUTOTUNE if prefetch is None else prefetch
  return batches.prefetch(prefetch).with_options(_tf_data_options(data))


def _tf_data_options(data: cfg.DataConfig) -> tf.data.Options:
  options = tf.data.Options()
  options.autotune.enabled = True
  options.autotune.ram_budget = data.autotune_ram_mib * 2**20
  # Images are preprocessed in parallel; dividing each among threads only costs.
  options.threading.max_intra_op_parallelism = 1
  return options


def _read_fn(
  seed: int, parser: RecordParser, context: tf.distribute.InputContext
) -> corrupt_records.ReadFn:
  """Returns the parser's function, with seeds that follow from a record's index."""
  seed = record_reader.fold_in(seed, "distort", context.input_pipeline_id)

  def read(index: tf.Tensor, record: tf.Tensor) -> tuple[Any, tf.Tensor]:
    return parser.parse(tf.stack([tf.constant(seed, tf.int64), index]), record)

  return read


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


def count_examples(data: cfg.DataConfig) -> int:
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
  data: cfg.DataConfig,
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


def _num_padding(data: cfg.DataConfig, context: tf.distribute.InputContext) -> int:
  """Returns the examples missing for the batches of all pipelines to be as many."""
  num_examples = count_examples(data)
  steps = evaluation_steps(num_examples, data.global_batch_size, context)
  wanted = steps * data.global_batch_size // context.num_input_pipelines
  return wanted - record_reader.num_records_of(num_examples, context)
