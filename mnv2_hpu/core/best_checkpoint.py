"""The best checkpoint and the note of its metrics, in an order that survives a kill."""

import json
from typing import Any

import tensorflow as tf
from official.core import train_utils

from mnv2_hpu.distribute import ranks


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
