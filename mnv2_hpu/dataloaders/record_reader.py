"""Which records an input pipeline reads, and in which order.

Training: over all pipelines together each record once an epoch, in an order that
follows from a seed which all processes share. (Model Garden's reader draws the seed of
the file order in each process, so that shards overlap.) Evaluation: over all pipelines
together each record once, in the order of the files.
"""

import functools
import zlib
from collections.abc import Callable, Sequence

import tensorflow as tf
from absl import logging

from mnv2_hpu import errors
from mnv2_hpu.dataloaders import corrupt_records, record_files, record_position

MAX_CYCLE_LENGTH = 16
# With fewer files than this a pipeline, an uneven division is unfair: shard records.
MIN_FILES_PER_PIPELINE = 8


def fold_in(seed: int, *tags: object) -> int:
  """Returns a seed in [1, 2**31 - 1) for a use of another, the same everywhere.

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
  """Reads this pipeline's share of every epoch, without end.

  Pipelines share out the files of an epoch if each can have about as many; otherwise
  each reads all files and keeps its own records, which the log says.

  Args:
    files: Paths of TFRecords, none empty, the same list in every process.
    context: Which of how many pipelines this is.
    seed: The same in every process.
    shuffle_buffer_size: Records among which the next one is drawn.
    num_consumed: Records of this pipeline that an earlier part of the run has used:
      the first one returned is the one that would have followed them.
    num_examples: Records in all files; None counts them where it matters.
    cache: Whether to keep the records of this pipeline in memory. Its share of the
      files is then that of the first epoch.
    cycle_length: Files read at the same time; None takes up to 16.
    deterministic: Whether the order follows from the seed alone. Otherwise a slow file
      is not waited for: of an epoch in which a run resumes, some records may then be
      read twice and as many never.

  Returns:
    `corrupt_records.LocatedRecord`s; epochs are not mixed.

  Raises:
    UserError: If there are fewer records than pipelines.
  """
  order = functools.partial(_file_order, len(files), fold_in(seed, "files"))
  shuffle_seed = fold_in(seed, "records", context.input_pipeline_id)
  by_files = _shard_by_files(files, context, num_examples)

  sizes = [tf.io.gfile.stat(path).length for path in files]

  def open_file(index: tf.Tensor) -> tf.data.Dataset:
    path, size = tf.gather(files, index), tf.gather(tf.constant(sizes, tf.int64), index)
    return corrupt_records.located_records(path, index, size)

  def read(epoch: tf.Tensor) -> tf.data.Dataset:
    indices = tf.data.Dataset.from_tensor_slices(tf.cast(order(epoch), tf.int64))
    if by_files:
      return _interleave(
        _shard(indices, context), open_file, cycle_length, deterministic
      )
    return _shard(_interleave(indices, open_file, cycle_length, True), context)

  cached = read(tf.constant(0, tf.int64)).cache() if cache else None
  start = record_position.Position(0, 0)
  if num_consumed:
    length = _epoch_length(files, context, order, by_files, fixed_share=cache)
    start = record_position.find(num_consumed, length)
    record_position.log(start, num_consumed, _name(context))

  def read_shuffled(epoch: tf.Tensor) -> tf.data.Dataset:
    records = read(epoch) if cached is None else cached
    # Of this function's graph, in the place of the global seed of the process.
    tf.compat.v1.set_random_seed(shuffle_seed)
    records = records.shuffle(shuffle_buffer_size, seed=epoch)
    skipped = tf.cast(epoch == start.epoch, tf.int64) * start.offset
    return records.skip(skipped)

  return tf.data.Dataset.counter(start.epoch).flat_map(read_shuffled)


def evaluation_records(
  files: Sequence[str],
  context: tf.distribute.InputContext,
  num_examples: int,
  cycle_length: int | None = None,
) -> tf.data.Dataset:
  """Reads this pipeline's share of all records, once, in a fixed order.

  Args:
    files: Paths of TFRecords, the same list in every process.
    context: Which of how many pipelines this is.
    num_examples: Records in all files. Reading stops with an error where the files
      hold another number, so that none is dropped unseen.
    cycle_length: Files read at the same time; None takes up to 16.
  """
  paths = tf.data.Dataset.from_tensor_slices(list(files))
  records = _interleave(paths, tf.data.TFRecordDataset, cycle_length, True)
  records = _shard(records, context)
  return records.apply(
    tf.data.experimental.assert_cardinality(evaluation_share(num_examples, context))
  )


def evaluation_share(num_examples: int, context: tf.distribute.InputContext) -> int:
  """Returns how many records of an evaluation this pipeline reads."""
  return len(
    range(context.input_pipeline_id, num_examples, context.num_input_pipelines)
  )


def _file_order(num_files: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
  """Returns the order in which an epoch reads the files, int32 `[num_files]`."""
  # Stateless: whatever the global seed of a process, all agree on the order.
  return tf.random.experimental.stateless_shuffle(
    tf.range(num_files), tf.stack([tf.constant(seed, tf.int64), epoch]), alg="philox"
  )


def _epoch_length(
  files: Sequence[str],
  context: tf.distribute.InputContext,
  order: Callable[[tf.Tensor], tf.Tensor],
  by_files: bool,
  fixed_share: bool,
) -> Callable[[tf.Tensor], tf.Tensor]:
  """Returns what gives the number of records that this pipeline reads in an epoch."""
  pipelines, pipeline = context.num_input_pipelines, context.input_pipeline_id
  if pipelines == 1 or not by_files:
    share = evaluation_share(record_position.count_records(files), context)
    return lambda epoch: tf.constant(share, tf.int64)
  counts = tf.constant(record_files.count_by_file(files), tf.int64)

  def length(epoch: tf.Tensor) -> tf.Tensor:
    own = order(tf.zeros_like(epoch) if fixed_share else epoch)[pipeline::pipelines]
    return tf.reduce_sum(tf.gather(counts, own))

  return length


def _name(context: tf.distribute.InputContext) -> str:
  return f"{context.input_pipeline_id} of {context.num_input_pipelines}"


def _shard_by_files(
  files: Sequence[str], context: tf.distribute.InputContext, num_examples: int | None
) -> bool:
  """Whether each pipeline reads whole files; else each reads all, and skips records."""
  pipelines = context.num_input_pipelines
  even = len(files) % pipelines == 0
  if even or len(files) >= MIN_FILES_PER_PIPELINE * pipelines:
    return True
  if num_examples is None:
    num_examples = record_position.count_records(files)
  if num_examples < pipelines:
    raise errors.UserError(
      f"{num_examples} training examples cannot be shared by {pipelines} input "
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
