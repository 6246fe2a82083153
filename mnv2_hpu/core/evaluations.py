"""Evaluations at the steps of the uninterrupted run, wherever a run resumes.

Orbit counts the interval from the step it resumes at, and forgets the evaluation that a
killed run had begun after its checkpoint.
"""

import json
import os
from typing import Any

import orbit
import tensorflow as tf
from absl import logging
from official.core import actions as upstream
from official.core import config_definitions as cfg

from mnv2_hpu import driver_flags, files
from mnv2_hpu.distribute import ranks

FILE = "evaluations.json"


class EvaluationSchedule:
  """After which steps a training evaluates, and which evaluations it has completed.

  The completed ones stand in `evaluations.json` in the model folder. An evaluation is
  complete when the driver has written its summaries and its checkpoints, after which it
  gives the next sign to the trainer: at the start of the next loop, or at the end.

  Args:
    model_dir: Folder of the run.
    config: Intervals and length of the training.
    is_chief: Whether this rank reads and writes the file.
  """

  def __init__(self, model_dir: str, config: cfg.TrainerConfig, is_chief: bool) -> None:
    self._config = config
    self._path = os.path.join(model_dir, FILE) if is_chief else None
    self._steps = self._written = self._read()
    self.last_step: int | None = None  # evaluated by this process

  @property
  def is_active(self) -> bool:
    """Whether the running driver was asked to train and evaluate."""
    return driver_flags.driver_mode() == "train_and_eval"

  def is_due(self, step: int) -> bool:
    """Returns whether an uninterrupted training evaluates after this step."""
    config = self._config
    return step % config.validation_interval == 0 or step >= config.train_steps

  def is_pending(self, step: int) -> bool:
    """Returns whether an evaluation is due after this step, but none was completed."""
    return bool(
      self.is_active and step and self.is_due(step) and step not in self._steps
    )

  def resume(self, step: int) -> None:
    """Forgets evaluations after the step at which the training resumes."""
    self._steps = [done for done in self._steps if done <= step]

  def mark(self, step: int) -> None:
    """Notes an evaluation that ran; `commit` follows once its results are written."""
    self.last_step = step
    self._steps = [*(done for done in self._steps if done < step), step]

  @property
  def is_to_commit(self) -> bool:
    """Whether an evaluation was marked that is not written as complete."""
    return self._steps != self._written

  def commit(self) -> None:
    """Writes the evaluations marked so far as complete.

    Where the disk is full that is logged, and tried again after the next evaluation.
    """
    if self._path and self.is_to_commit:
      try:
        with files.atomic_write(self._path) as file:
          json.dump({"completed_steps": self._steps}, file)
      except (OSError, tf.errors.OpError) as error:
        logging.error("%s. A resumed run repeats its last evaluation.", error)
        return
    self._written = self._steps

  def _read(self) -> list[int]:
    if not self._path or not tf.io.gfile.exists(self._path):
      return []
    try:
      with tf.io.gfile.GFile(self._path) as file:
        return [int(step) for step in json.load(file)["completed_steps"]]
    except (ValueError, KeyError, TypeError) as error:
      logging.warning("%s cannot be read (%s): ignored.", self._path, error)
      return []


def evaluate_as_controller(trainer: Any, model_dir: str) -> None:
  """Evaluates as orbit's controller does, with its actions and its summaries.

  Args:
    trainer: Model Garden's, its variables restored; called in its strategy's scope, on
      all ranks.
    model_dir: Folder in which rank 0 writes.
  """
  config = trainer.config.trainer
  logs = trainer.evaluate(tf.constant(config.validation_steps, tf.int32))
  for action in upstream.get_eval_actions(trainer.config, trainer, model_dir):
    action(logs)
  if ranks.rank(trainer.strategy):
    return
  writer = orbit.utils.SummaryManager(
    os.path.join(model_dir, config.validation_summary_subdir),
    tf.summary.scalar,
    global_step=trainer.global_step,
  )
  writer.write_summaries(tf.nest.map_structure(orbit.utils.get_value, logs))
  writer.flush()
