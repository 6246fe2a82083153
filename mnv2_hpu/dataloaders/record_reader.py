"""Which records an input pipeline reads, in which order, and where it resumes.

Training: over all pipelines together each record once an epoch, in an order that
follows from a seed which all processes share. (Model Garden's reader draws the seed of
the file order in each process, so that shards overlap.) A position in that infinite
stream is a number of records: when a run resumes, whole epochs are skipped by
arithmetic on the counts of records, and within an epoch records are read from the file
but not decoded. Evaluation: over all pipelines together each record once, in the order
of the files.
"""

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf
from absl import logging

from mnv2_hpu import errors, tfrecord
from mnv2_hpu.dataloaders import corrupt_records, record_files

MAX_CYCLE_LENGTH = 16
# With fewer files than this a pipeline, an uneven division is unfair: shard records.
MIN_FILES_PER_PIPELINE = 8


class Position(NamedTuple):
  """A position in the stream of one pipeline.

  Attributes:
    epoch: Number of complete epochs before the position.
    offset: Records of this epoch that come before it.
  """

  epoch: int
  offset: int


def fold_in(seed: int, *tags: object) -> int:
  """Returns a seed in [1, 2**31 - 1) for one use of another, the same everywhere.

  >>> fold_in(0, "files") == fold_in(0, "files")
  True
  >>> fold_in(0, "records", 0) == fold_in(0, "records", 1)
  False
  """
  return 1 + zlib.crc32(repr((seed, *tags)).encode()) % (2**31 - 2)


def training_records(
  files: Sequence[str],
  context: tf.distribute.InputContext,
  *,
  seed: int,
  shuffle_buffer_size: int,
  num_consumed: int = 0,
  num_examples: int | None = None,
  cache: bool = False,
  cycle_length: int | None = None,
  deterministic: bool = True,
) -> tf.data.Dataset:
  """Reads this pipeline's shard of every epoch, infinitely.

  Each pipeline reads some of an epoch's files if all can have about as many; otherwise
  each reads all files and keeps its own records, which the log says.

  Args:
    files: Paths of TFRecords, none empty, the same list in every process.
    context: Which of how many pipelines this is.
    seed: Seed that is the same in every process.
    shuffle_buffer_size: Records among which the next one is drawn.
    num_consumed: Records of this pipeline that an earlier part of the run has used:
      the first one returned is the one that would have followed them.
    num_examples: Records in all files; None counts them where it matters.
    cache: Whether to keep the records of this pipeline in memory. Its files are then
      those of the first epoch.
    cycle_length: Files read at the same time; None takes up to 16.
    deterministic: Whether the order follows from the seed alone. Otherwise a slow file
      is not waited for: of an epoch in which a run resumes, some records may then be
      read twice and as many never.

  Returns:
    `corrupt_records.LocatedRecord`s; epochs are not mixed.

  Raises:
    UserError: If there are fewer records than pipelines.
  """
  order = functools.partial(file_order, len(files), fold_in(seed, "files"))
  shuffle_seed = fold_in(seed, "records", context.input_pipeline_id)
  by_files = shard_by_files(files, context, num_examples)
  open_file = corrupt_records.file_opener(files)

  def read(epoch: tf.Tensor) -> tf.data.Dataset:
    indices = tf.data.Dataset.from_tensor_slices(tf.cast(order(epoch), tf.int64))
    if by_files:
      return _interleave(
        _shard(indices, context), open_file, cycle_length, deterministic
      )
    return _shard(_interleave(indices, open_file, cycle_length, True), context)

  cached = read(tf.constant(0, tf.int64)).cache() if cache else None
  start = Position(0, 0)
  if num_consumed:
    length = epoch_length(files, context, order, by_files, fixed_files=cache)
    start = find_position(num_consumed, length)
    logging.info(
      "Input pipeline %d of %d resumes after %d records, in epoch %d (the first is 0): "
      "it reads %d records of that epoch without decoding them, and skips them.",
      context.input_pipeline_id,
      context.num_input_pipelines,
      num_consumed,
      *start,
    )

  def read_shuffled(epoch: tf.Tensor) -> tf.data.Dataset:
    records = read(epoch) if cached is None else cached
    # Of this function's graph, in the place of the global seed of the process.
    tf.compat.v1.set_random_seed(shuffle_seed)
    records = records.shuffle(shuffle_buffer_size, seed=epoch)
    return records.skip(tf.cast(epoch == start.epoch, tf.int64) * start.offset)

  return tf.data.Dataset.counter(start.epoch).flat_map(read_shuffled)


def evaluation_records(
  files: Sequence[str],
  context: tf.distribute.InputContext,
  cycle_length: int | None = None,
) -> tf.data.Dataset:
  """Reads this pipeline's shard of all records, once, in a fixed order.

  Args:
    files: Paths of TFRecords, the same list in every process.
    context: Which of how many pipelines this is.
    cycle_length: Files read at the same time; None takes up to 16.

  Returns:
    `corrupt_records.LocatedRecord`s.
  """
  indices = tf.data.Dataset.range(len(files))
  open_file = corrupt_records.file_opener(files)
  return _shard(_interleave(indices, open_file, cycle_length, True), context)


def num_records_of(num_examples: int, context: tf.distribute.InputContext) -> int:
  """Returns how many records of an evaluation this pipeline reads."""
  return len(
    range(context.input_pipeline_id, num_examples, context.num_input_pipelines)
  )


def file_order(num_files: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
  """Returns the order in which an epoch reads the files, int32 `[num_files]`."""
  # Stateless: whatever the global seed of a process, all agree on the order.
  return tf.random.experimental.stateless_shuffle(
    tf.range(num_files), tf.stack([tf.constant(seed, tf.int64), epoch]), alg="philox"
  )


def find_position(
  num_consumed: int, epoch_length: Callable[[tf.Tensor], tf.Tensor]
) -> Position:
  """Returns the position that a number of records of a pipeline precede.

  Args:
    num_consumed: Records of the pipeline that come before the position.
    epoch_length: From an epoch (int64 scalar, counted from 0) to the records, at least
      one, that the pipeline reads in it (int64 scalar). Traced, not called eagerly.
  """

  @tf.function
  def search(before: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.while_loop(
      lambda epoch, left: left >= epoch_length(epoch),
      lambda epoch, left: (epoch + 1, left - epoch_length(epoch)),
      (tf.zeros([], tf.int64), before),
    )

  # On the host, whatever the device of the strategy in whose scope this is called.
  with tf.init_scope(), tf.device("CPU:0"):
    epoch, left = search(tf.constant(num_consumed, tf.int64))
    return Position(int(epoch), int(left))


def epoch_length(
  files: Sequence[str],
  context: tf.distribute.InputContext,
  order: Callable[[tf.Tensor], tf.Tensor],
  by_files: bool,
  fixed_files: bool,
) -> Callable[[tf.Tensor], tf.Tensor]:
  """Returns a function from an epoch to the records this pipeline reads in it."""
  pipelines, pipeline = context.num_input_pipelines, context.input_pipeline_id
  if pipelines == 1 or not by_files:
    own = num_records_of(record_files.count_examples(files), context)
    return lambda epoch: tf.constant(own, tf.int64)
  counts = tf.constant(tfrecord.count_records(files), tf.int64)

  def length(epoch: tf.Tensor) -> tf.Tensor:
    own = order(tf.zeros_like(epoch) if fixed_files else epoch)[pipeline::pipelines]
    return tf.reduce_sum(tf.gather(counts, own))

  return length


def shard_by_files(
  files: Sequence[str], context: tf.distribute.InputContext, num_examples: int | None
) -> bool:
  """Whether each pipeline reads whole files; else each reads all, and skips records."""
  pipelines = context.num_input_pipelines
  even = len(files) % pipelines == 0
  if even or len(files) >= MIN_FILES_PER_PIPELINE * pipelines:
    return True
  if num_examples is None:
    num_examples = record_files.count_examples(files)
  if num_examples < pipelines:
    raise errors.UserError(
      f"{num_examples} training examples cannot be divided among {pipelines} input "
      f"pipelines. Use at most {num_examples} workers, or more data."
    )
  logging.info(
    "%d data files are not enough to give each of %d input pipelines as many: every "
    "pipeline reads all files and keeps one record in %d. Write a multiple of %d "
    "files to read less.",
    len(files),
    *[pipelines] * 3,
  )
  return False


def _shard(
  dataset: tf.data.Dataset, context: tf.distribute.InputContext
) -> tf.data.Dataset:
  return dataset.shard(context.num_input_pipelines, context.input_pipeline_id)


def _interleave(
  files: tf.data.Dataset,
  open_file: Callable[[tf.Tensor], tf.data.Dataset],
  cycle_length: int | None,
  deterministic: bool,
) -> tf.data.Dataset:
  return files.interleave(
    open_file,
    cycle_length=cycle_length or MAX_CYCLE_LENGTH,
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=deterministic,
  )
