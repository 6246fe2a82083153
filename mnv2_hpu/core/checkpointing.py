"""Checkpoints that outlive a full disk and a kill, and never hold NaN."""

import copy
import glob
import json
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging
from official.core import train_utils

from mnv2_hpu import files
from mnv2_hpu.core import checkpoint_integrity, finite
from mnv2_hpu.distribute import ranks, variable_sync
from mnv2_hpu.errors import UserError


class SafeCheckpoint(tf.train.Checkpoint):
  """What the trainer saves; a `tf.train.Checkpoint` in every file that it writes.

  * Where writing fails, the error is logged and kept in `failure` until a later save
    succeeds. `CheckpointManager.save` then returns None and forgets no older one.
  * The files are on the disk, not in a cache, before the list of checkpoints names
    them.
  * Weights with NaN or infinity are not written.
  * Saving is synchronous, whatever is asked for: a checkpoint of this network takes
    less than a second, and a thread that writes it reports its errors one save later.

  Args:
    at_sync: called when orbit waits for the last save: at the end of `train` and of
      `train_and_evaluate`.
    **items: what is saved, `global_step` among it.
  """

  def __init__(self, at_sync: Callable[[], None], **items: Any) -> None:
    super().__init__(**items)
    self._at_sync = at_sync
    self._strategy = tf.distribute.get_strategy()
    self._failure: str | None = None

  @property
  def failure(self) -> str | None:
    """Why the last checkpoint was not written; None where it was."""
    return self._failure

  def _write(self, file_prefix: str, options: Any = None) -> str | None:
    """Writes a checkpoint; all of `tf.train`'s ways to save end here.

    Rank 0 writes, the others need not take part: batch statistics, which are reduced
    over the ranks when they are read, are equal on all of them between inner loops.

    Returns:
      Its path, or None where the disk did not take it, and on ranks other than 0.

    Raises:
      NotFiniteError: if a weight is NaN or infinite.
    """
    step = int(self.global_step.numpy())
    variables = variable_sync.trained_variables(self)
    finite.require_finite(self._strategy, variables, step)
    if ranks.rank(self._strategy):
      return None
    several = ranks.size(self._strategy) > 1
    options = copy.copy(options) if options else tf.train.CheckpointOptions()
    options.experimental_enable_async_checkpoint = False
    options.experimental_write_callbacks = [
      _flush_to_disk,
      *(options.experimental_write_callbacks or ()),
    ]
    try:
      with variable_sync.read_locally(variables if several else ()):
        path = super()._write(file_prefix, options)
    except (tf.errors.OpError, OSError) as error:
      # A collective that fails while variables are read is no matter of the disk.
      if isinstance(error, tf.errors.OpError) and _folder(file_prefix) not in str(
        error
      ):
        raise
      problem = str(error).split("\n", maxsplit=1)[0]
      self._failure = f"{file_prefix} could not be written ({problem})"
      _remove_unfinished(file_prefix)
      self.repeat_failure()
      return None
    self._failure = None
    return path

  def repeat_failure(self) -> None:
    """Logs the failure again, as long as there is one."""
    if self._failure:
      logging.error(
        "CHECKPOINT NOT SAVED: %s. The training goes on; earlier checkpoints are kept, "
        "and the next one is tried at its time.",
        self._failure,
      )

  def require_saved(self) -> None:
    """Ends a training whose last checkpoint was not written with an error.

    Raises:
      UserError: if there is a failure.
    """
    if self._failure:
      raise UserError(
        f"the last checkpoint is missing: {self._failure}. Make room, and start the "
        "training again: it goes on from the checkpoint before."
      )

  def sync(self) -> None:
    """Called by orbit at the end of a training, and before an evaluation."""
    super().sync()
    self._at_sync()


def _folder(prefix: str) -> str:
  return os.path.dirname(prefix)


def _flush_to_disk(prefix: str) -> None:
  """Waits until the files of a checkpoint, and their names, are on the disk."""
  if "://" in prefix:
    return
  for path in (*glob.glob(f"{glob.escape(prefix)}.*"), _folder(prefix) or "."):
    files.fsync(path)


def _remove_unfinished(prefix: str) -> None:
  """Removes what was written of a checkpoint that is incomplete."""
  leftover = f"{prefix}_temp"
  if tf.io.gfile.exists(leftover):
    tf.io.gfile.rmtree(leftover)
  if checkpoint_integrity.find_corruption(prefix) is not None:
    for path in tf.io.gfile.glob(f"{glob.escape(prefix)}.*"):
      tf.io.gfile.remove(path)


class BestCheckpointExporter(train_utils.BestCheckpointExporter):
  """Model Garden's exporter, which notes the metrics only of what it has saved.

  Upstream writes `info.json` first. A process killed between the two leaves the note of
  a checkpoint that does not exist, and the evaluation, repeated after the restart, is
  then no better than the note. All ranks do what rank 0 decides: saving is collective,
  and the others may not have the note.
  """

  _best_ckpt_logs: dict[str, Any] | None

  @classmethod
  def like(
    cls, upstream: train_utils.BestCheckpointExporter
  ) -> "BestCheckpointExporter":
    """Returns an exporter with the folder and the metric of Model Garden's."""
    return cls(
      upstream._export_dir, "|".join(upstream._metric_name), upstream._metric_comp
    )

  def maybe_export_checkpoint(
    self,
    checkpoint: tf.train.Checkpoint,
    eval_logs: dict[str, Any],
    global_step: int,
    write_logs: bool = True,
  ) -> bool:
    """Saves the checkpoint if its metric is the best, then notes it.

    Returns:
      Whether it was saved.
    """
    best = self._best_ckpt_logs
    is_better = best is None or self._new_metric_is_better(best, eval_logs)
    strategy = tf.distribute.get_strategy()
    if best is None:
      self._best_ckpt_logs = eval_logs
    if not ranks.broadcast_int(strategy, int(is_better)):
      return False
    if self._get_checkpoint_manager(checkpoint).save() is None:
      return False  # the disk is full, which the checkpoint has said
    self._best_ckpt_logs = eval_logs
    if write_logs:
      self.export_best_eval_metric(eval_logs, global_step)
    return True

  def export_best_eval_metric(
    self, eval_logs: dict[str, Any], global_step: int
  ) -> None:
    """Writes the scalars of `eval_logs` and the step to `info.json`, whole or not."""
    scalars = {
      name: float(value) for name, value in eval_logs.items() if tf.rank(value) == 0
    }
    note = {**scalars, "best_ckpt_global_step": float(global_step)}
    path = self.best_ckpt_logs_path
    with tf.io.gfile.GFile(f"{path}.partial", "w") as file:
      file.write(json.dumps(note, indent=4) + "\n")
    tf.io.gfile.rename(f"{path}.partial", path, overwrite=True)
