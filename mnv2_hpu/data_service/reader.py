"""Training's input by way of the data service: what its workers do, what comes back.

An epoch is a job of its own, whose splits are the files in the order of that epoch:
each goes to one worker, so that each record is read once an epoch however many workers
there are. (Model Garden's reader has every worker read the whole set.) A rank has jobs
of its own over its own shard, as it has it without a service: a shared job would need a
name that all ranks agree on and no earlier start has used.

TensorFlow ends a job when all of its workers have ended theirs, and waits for ever for
one that was killed. So an epoch ends here when all of its records have come, or, where
some are lost with a worker, once the others have had nothing more for a while.
"""

from __future__ import annotations

import functools
import glob
import itertools
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from absl import logging

from mnv2_hpu import tfrecord
from mnv2_hpu.data_service import client
from mnv2_hpu.dataloaders import corrupt_records, record_reader

if TYPE_CHECKING:
  from official.core import config_definitions as cfg

# Bytes of examples in one message; gRPC's may be 2 GB.
_CHUNK_BYTES = 2**26
_NUM_PREFETCHED = 2  # messages that a worker keeps ready; they are lost with it
_MAX_FILE_BYTES = 2**40
_TICK_SECONDS = 1.0
# Without records while workers tick; longer than one takes to fill its shuffle buffer.
_LOST_SECONDS = 30.0
# What a worker says of a file that it cannot open; `error_reports` looks for it.
CANNOT_READ = "A worker of the data service cannot read "


def training_batches(
  data: cfg.DataConfig,
  files: list[str],
  context: tf.distribute.InputContext,
  *,
  batch_size: int,
  num_consumed: int,
  read: corrupt_records.ReadFn,
  padding: Any,
  corrupt: corrupt_records.CorruptRecords,
  options: tf.data.Options,
) -> tf.data.Dataset:
  """Reads this pipeline's shard of every epoch, infinitely, by a service's workers.

  Args:
    data: Training's input, with `service_address`.
    files: Paths of TFRecords, the same list in every process and on every worker.
    context: Which of how many pipelines this is.
    batch_size: Examples of a batch.
    num_consumed: Records that an earlier part of the run has used. The epoch of the
      last one is read from its start.
    read: From a record's number and a record to an example and whether its labels are
      within the classes.
    padding: Example of the shapes and types that `read` gives.
    corrupt: Counts and names, here, what the workers could not read.
    options: What tf.data may do on a worker.

  Returns:
    Batches of `read`'s examples. Records that cannot be read are missing.
  """
  order = functools.partial(
    record_reader.file_order, len(files), record_reader.fold_in(data.seed, "files")
  )
  shuffle_seed = record_reader.fold_in(data.seed, "records", context.input_pipeline_id)
  by_files = record_reader.shard_by_files(files, context, data.num_examples or None)
  first_epoch = 0
  length = record_reader.epoch_length(files, context, order, by_files, False)
  if num_consumed:
    first_epoch, offset = record_reader.find_position(num_consumed, length)
    logging.info(
      "Input pipeline %d of %d reads epoch %d (the first is 0) from its start, of "
      "which an earlier process has read %d records: what comes from a data service "
      "has no order to resume in.",
      *(context.input_pipeline_id, context.num_input_pipelines, first_epoch, offset),
    )
  open_file = _file_opener(files, context, by_files)
  chunk_size = min(batch_size, max(1, _CHUNK_BYTES // _num_bytes(padding)))

  def read_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
    own = tf.cast(order(epoch), tf.int64)
    if by_files:
      own = own[context.input_pipeline_id :: context.num_input_pipelines]
    number = functools.partial(_number, epoch, len(files))
    # The source: one split a file. No more are taken than are read at the same time.
    records = tf.data.Dataset.range(own.shape[0]).interleave(
      lambda place: open_file(own[place]), cycle_length=data.cycle_length or 1
    )
    # Of this function's graph, in the place of the global seed of the process.
    tf.compat.v1.set_random_seed(shuffle_seed)
    records = records.shuffle(data.shuffle_buffer_size, seed=epoch)
    examples = records.map(
      lambda location, record: (
        location,
        *_read_or_pad(read, padding, number(location), record),
      ),
      num_parallel_calls=tf.data.AUTOTUNE,
      deterministic=False,
    )
    chunks = examples.batch(chunk_size).concatenate(_ticks(padding))
    chunks = chunks.prefetch(_NUM_PREFETCHED).with_options(options)
    chunks = client.distribute(chunks, data.service_address)
    return _until_complete(chunks, epoch, length(epoch))

  chunks = tf.data.Dataset.counter(first_epoch).flat_map(read_epoch)
  return chunks.map(corrupt.drop).rebatch(batch_size, drop_remainder=True)


def _num_bytes(example: Any) -> int:
  """Returns the bytes of an example's tensors."""
  tensors = tf.nest.flatten(example)
  return sum(math.prod(tensor.shape) * tensor.dtype.size for tensor in tensors)


def _number(epoch: tf.Tensor, num_files: int, location: tf.Tensor) -> tf.Tensor:
  """Returns a number that no other record has, of any epoch: what its seed is."""
  return (epoch * num_files + location[0]) * _MAX_FILE_BYTES + location[1]


def _file_opener(
  files: list[str], context: tf.distribute.InputContext, by_files: bool
) -> Any:
  """Returns a function from the index of a file to its records for this pipeline."""
  # A worker has a working folder of its own.
  paths = [path if "://" in path else os.path.abspath(path) for path in files]
  patterns = [glob.escape(path) for path in paths]
  open_file = corrupt_records.file_opener(paths)
  counts = [0] if by_files else tfrecord.count_records(files)
  starts = tf.constant([0, *itertools.accumulate(counts)], tf.int64)
  pipelines, pipeline = context.num_input_pipelines, context.input_pipeline_id

  def open_or_fail(file: tf.Tensor) -> tf.data.Dataset:
    is_there = tf.size(tf.io.matching_files(tf.gather(patterns, file))) > 0
    message = tf.strings.join([CANNOT_READ, tf.gather(paths, file)])
    with tf.control_dependencies([tf.debugging.Assert(is_there, [message])]):
      records = open_file(tf.identity(file))
    if by_files:
      return records
    # As if the records of all files were numbered: a worker knows those of one file.
    return records.shard(pipelines, (pipeline - tf.gather(starts, file)) % pipelines)

  return open_or_fail


def _read_or_pad(
  read: corrupt_records.ReadFn, padding: Any, number: tf.Tensor, record: tf.Tensor
) -> tuple[tf.Tensor, Any]:
  """Returns whether a record can be used, and its example; padding if it cannot."""
  examples = tf.data.Dataset.from_tensors((number, record)).map(read).ignore_errors()
  instead = tf.data.Dataset.from_tensors((padding, tf.constant(False)))
  example, valid = examples.concatenate(instead).take(1).get_single_element()
  return valid, example


def _ticks(padding: Any) -> tf.data.Dataset:
  """Returns chunks without examples, one a second, infinite: a worker that waits."""
  empty = tf.nest.map_structure(
    lambda part: tf.zeros([0, *part.shape], part.dtype), padding
  )
  chunk = (tf.zeros([0, 3], tf.int64), tf.zeros([0], tf.bool), empty)
  ticks = tf.data.Dataset.counter().map(lambda _: chunk)
  slow = tf.raw_ops.SleepDataset(
    input_dataset=tf.data.experimental.to_variant(ticks),
    sleep_microseconds=tf.constant(int(_TICK_SECONDS * 1e6), tf.int64),
    output_types=[part.dtype for part in tf.nest.flatten(chunk)],
    output_shapes=[part.shape for part in tf.nest.flatten(chunk)],
  )
  return tf.data.experimental.from_variant(slow, ticks.element_spec)


def _until_complete(
  chunks: tf.data.Dataset, epoch: tf.Tensor, num_records: tf.Tensor
) -> tf.data.Dataset:
  """Returns the chunks of an epoch until all records have come, or no more do."""

  def count(state: tuple[tf.Tensor, tf.Tensor, tf.Tensor], chunk: Any) -> tuple:
    missing, quiet, last_time = state
    num_new = tf.shape(chunk[0], tf.int64)[0]
    missing -= num_new
    now = tf.timestamp()
    # Not the seconds in which nobody reads, as in an evaluation.
    waited = tf.minimum(now - last_time, 2 * _TICK_SECONDS)
    quiet = tf.where(num_new > 0, tf.zeros_like(quiet), quiet + waited)
    is_lost = tf.logical_and(missing > 0, quiet > _LOST_SECONDS)
    tf.cond(
      is_lost,
      lambda: tf.numpy_function(_report_lost, [epoch, missing, num_records], []),
      tf.no_op,
    )
    return (missing, quiet, now), (tf.logical_or(is_lost, missing <= 0), chunk)

  def mark_end(is_last: tf.Tensor, chunk: Any) -> tf.data.Dataset:
    # Otherwise it would show only at the next chunk, a second later.
    one = tf.data.Dataset.from_tensors((tf.constant(False), chunk))
    end = tf.data.Dataset.from_tensors((tf.constant(True), chunk))
    return one.concatenate(end.take(tf.cast(is_last, tf.int64)))

  start = (num_records, tf.zeros([], tf.float64), tf.timestamp())
  counted = chunks.scan(start, count).flat_map(mark_end)
  return counted.take_while(lambda is_end, _: tf.logical_not(is_end)).map(
    lambda _, chunk: chunk
  )


def _report_lost(
  epoch: np.ndarray, missing: np.ndarray, num_records: np.ndarray
) -> None:
  logging.warning(
    "Epoch %d (the first is 0) goes without %d of its %d records: a worker of the data "
    "service that had begun their files was lost.",
    *(epoch, missing, num_records),
  )
