"""Evaluations at the steps of the uninterrupted run, wherever a run resumes.

Orbit counts the interval from the step it resumes at, and forgets the evaluation that a
killed run had begun after its checkpoint.
"""

import os
from typing import Any

import orbit
import tensorflow as tf
from official.core import actions
from official.core import config_definitions as cfg

from mnv2_hpu import driver_flags
from mnv2_hpu.distribute import ranks
from mnv2_hpu.reporting import curves


def is_due(trainer: cfg.TrainerConfig, step: int) -> bool:
  """Whether an uninterrupted training evaluates after this step."""
  return step % trainer.validation_interval == 0 or step >= trainer.train_steps


def evaluates() -> bool:
  """Whether the running driver was asked to train and evaluate."""
  return driver_flags.driver_mode() == "train_and_eval"


def is_owed(model_dir: str, trainer: cfg.TrainerConfig, step: int) -> bool:
  """Whether a training resumes where an evaluation is due, but none was logged.

  Args:
    model_dir: of the run; its event files tell which evaluations ended.
    trainer: says after which steps there is one.
    step: at which the run resumes, 0 at its start.
  """
  if not step or not is_due(trainer, step):
    return False
  folder = os.path.join(model_dir, trainer.validation_summary_subdir)
  # The first evaluation creates it, perhaps not to its end.
  if not tf.io.gfile.glob(os.path.join(folder, "*tfevents*")):
    return True
  logged = curves.read_scalars(folder)
  return step not in {at for curve in logged.values() for at, _ in curve}


def make_up(trainer: Any, model_dir: str) -> None:
  """Evaluates as orbit's controller does, with its actions and its summaries.

  Args:
    trainer: Model Garden's, its variables restored; called in its strategy's scope, on
      all ranks.
    model_dir: where rank 0 writes.
  """
  config = trainer.config.trainer
  logs = trainer.evaluate(tf.constant(config.validation_steps, tf.int32))
  for action in actions.get_eval_actions(trainer.config, trainer, model_dir):
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
