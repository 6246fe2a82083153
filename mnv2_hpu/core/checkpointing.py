"""Checkpoints that outlive a full disk, and never hold NaN."""

import atexit
import contextlib
import copy
import glob
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import tensorflow as tf
from absl import logging
from official.modeling import optimization

from mnv2_hpu import files
from mnv2_hpu.core import checkpoint_integrity, finite
from mnv2_hpu.distribute import ranks, variable_snapshot, variable_sync
from mnv2_hpu.errors import UserError


@contextlib.contextmanager
def swapped_weights(optimizer: Any) -> Iterator[None]:
  """Inside, the model holds the EMA weights and the optimizer the raw ones.

  Args:
    optimizer: Any optimizer; one that keeps no EMA weights changes nothing.
  """
  if not isinstance(optimizer, optimization.ExponentialMovingAverage):
    yield
    return
  optimizer.swap_weights()
  try:
    yield
  finally:
    optimizer.swap_weights()


class FaultTolerantCheckpoint(tf.train.Checkpoint):
  """What the trainer saves; a `tf.train.Checkpoint` in every file that it writes.

  * A thread writes what the variables held when it was saved, while the training goes
    on. The next save waits for it, and so do the end of an inner loop and this process.
  * Where writing fails, the error is logged, again by `repeat_failure`, until a later
    save succeeds. `CheckpointManager.save` then lists no new one and forgets no older.
  * The files are on the disk, not in a cache, before the list of checkpoints names
    them.
  * Weights with NaN or infinity are not written.

  Args:
    on_sync: Called when orbit waits for the last save: at the end of `train` and of
      `train_and_evaluate`.
    **items: What is saved, `global_step` among it.
  """

  def __init__(self, on_sync: Callable[[], None], **items: Any) -> None:
    super().__init__(**items)
    self._on_sync = on_sync
    self._strategy = tf.distribute.get_strategy()
    self._writer = ThreadPoolExecutor(1, "checkpoint")
    self._pending: Future[None] | None = None
    self._failure: str | None = None

  def _write(self, file_prefix: str, options: Any = None) -> str | None:
    """Starts to write a checkpoint; all methods of `tf.train` that save end here.

    Rank 0 writes, the others need not take part: batch statistics, which are reduced
    over the ranks when they are read, are equal on all of them between inner loops.

    Returns:
      Its path, or None on non-chief ranks. `wait` says whether it was written.

    Raises:
      NotFiniteError: If a weight is NaN or infinite.
    """
    self.wait()
    step = int(self.global_step.numpy())
    variables = variable_sync.trained_variables(self)
    finite.require_finite(self._strategy, variables, step)
    if ranks.rank(self._strategy):
      return None
    several = ranks.size(self._strategy) > 1
    with variable_sync.read_locally(variables if several else ()):
      snapshot = variable_snapshot.VariableSnapshot((*variables, self.save_counter))
    self._pending = self._writer.submit(
      self._write_snapshot, snapshot, file_prefix, options
    )
    atexit.register(self._pending.exception)  # which waits for it
    return file_prefix

  def _write_snapshot(
    self,
    snapshot: variable_snapshot.VariableSnapshot,
    file_prefix: str,
    options: Any,
  ) -> None:
    """Writes a checkpoint to the disk, or notes why it could not be written."""
    options = copy.copy(options) if options else tf.train.CheckpointOptions()
    options.experimental_enable_async_checkpoint = False
    options.experimental_write_callbacks = [
      _flush_to_disk,
      *(options.experimental_write_callbacks or ()),
    ]
    try:
      with snapshot.replacing_variables(self):
        super()._write(file_prefix, options)
    except (tf.errors.OpError, OSError) as error:
      problem = str(error).split("\n", maxsplit=1)[0]
      self._failure = f"{file_prefix} could not be written ({problem})"
      # What cannot be removed either is at the next start.
      with contextlib.suppress(tf.errors.OpError, OSError):
        _remove_unfinished(file_prefix)
      self._log_failure()
    else:
      self._failure = None

  def wait(self) -> bool:
    """Waits until the last save has ended; returns whether it is on the disk."""
    if self._pending is not None:
      self._pending.result()
      atexit.unregister(self._pending.exception)
      self._pending = None
    return self._failure is None

  def repeat_failure(self) -> None:
    """Waits for the last save, and where it failed logs so again."""
    if not self.wait():
      self._log_failure()

  def _log_failure(self) -> None:
    logging.error(
      "CHECKPOINT NOT SAVED: %s. The training goes on; earlier checkpoints are kept, "
      "and the next one is tried at its time.",
      self._failure,
    )

  def require_saved(self) -> None:
    """Ends a training whose last checkpoint was not written with an error.

    Raises:
      UserError: If there is a failure.
    """
    if not self.wait():
      raise UserError(
        f"the last checkpoint is missing: {self._failure}. Make room, and start the "
        "training again: it goes on from the checkpoint before."
      )

  def sync(self) -> None:
    """Called by orbit at the end of a training, and before an evaluation."""
    self.wait()
    self._on_sync()


def _flush_to_disk(prefix: str) -> None:
  """Waits until the files of a checkpoint, and their names, are on the disk."""
  if "://" in prefix:
    return
  for path in (*glob.glob(f"{glob.escape(prefix)}.*"), os.path.dirname(prefix) or "."):
    files.fsync(path)


def _remove_unfinished(prefix: str) -> None:
  """Removes what was written of a checkpoint that is incomplete."""
  leftover = f"{prefix}_temp"
  if tf.io.gfile.exists(leftover):
    tf.io.gfile.rmtree(leftover)
  if checkpoint_integrity.find_corruption(prefix) is not None:
    for path in tf.io.gfile.glob(f"{glob.escape(prefix)}.*"):
      tf.io.gfile.remove(path)
