"""Where a resumed run continues in the endless stream of records of a pipeline.

The order of the records follows from the seed alone, so that a position in it is a
number of records. What lies before it is not read again: whole epochs are passed over
by arithmetic on the counts of records, and within an epoch records are read from the
file but not decoded.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf
from absl import logging

from mnv2_hpu.dataloaders import dataset_info, record_files


class Position(NamedTuple):
  """A position in the stream of one pipeline.

  Attributes:
    epoch: Epochs before this one are complete.
    offset: Records of this epoch that come before the position.
  """

  epoch: int
  offset: int


def find(num_consumed: int, epoch_length: Callable[[tf.Tensor], tf.Tensor]) -> Position:
  """Returns the position that a number of records precede.

  Args:
    num_consumed: Records of this pipeline that come before the position.
    epoch_length: From an epoch (int64 scalar, counted from 0) to the records, at least
      one, that this pipeline reads in it (int64 scalar). Traced, not called eagerly.
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


def count_records(files: Sequence[str]) -> int:
  """Returns the records in all files: as dataset.json says, else counted.

  Raises:
    UserError: If there is no dataset.json and a file is truncated or no TFRecord.
  """
  recorded = dataset_info.recorded_examples(files)
  return record_files.count_examples(files) if recorded is None else recorded


def log(position: Position, num_consumed: int, pipeline: str) -> None:
  """Says where a pipeline resumes and what it skips."""
  logging.info(
    "Input pipeline %s resumes after %d records, in epoch %d (the first is 0): it "
    "reads %d records of that epoch without decoding them, and skips them.",
    pipeline,
    num_consumed,
    position.epoch,
    position.offset,
  )
