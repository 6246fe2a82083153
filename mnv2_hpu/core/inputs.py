"""The datasets of a trainer, for tasks whose input can resume and repeat."""

import inspect
from typing import Any

import orbit
import tensorflow as tf

from mnv2_hpu.distribute import ranks


def build(
  strategy: tf.distribute.Strategy,
  task: Any,
  train: bool,
  evaluate: bool,
  start_step: int,
) -> tuple[dict[str, Any], int | None]:
  """Builds the training input from a step on, and one input for all evaluations.

  TensorFlow may stop the whole process for a minute when it destroys an iterator
  (docs/benchmarks.md), and a new one starts with nothing prefetched.

  Args:
    strategy: Strategy of all ranks.
    task: Model Garden's task, whose `build_inputs` takes `start_step` if its training
      resumes, and which has `evaluation_steps` if its evaluation can repeat.
    train: Whether it trains.
    evaluate: Whether it evaluates.
    start_step: Step at which the training resumes.

  Returns:
    Arguments of Model Garden's trainer, which builds the datasets that are missing; and
    the steps of a whole evaluation, None where its input is not repeated.
  """
  config, distribute = task.task_config, orbit.utils.make_distributed_dataset
  datasets = {}
  if train and "start_step" in inspect.signature(task.build_inputs).parameters:
    datasets["train_dataset"] = distribute(
      strategy, task.build_inputs, config.train_data, start_step=start_step
    )
  if not (evaluate and hasattr(task, "evaluation_steps")):
    return datasets, None
  datasets["validation_dataset"] = distribute(
    strategy, task.build_inputs, config.validation_data, repeat=True
  )
  num_steps = task.evaluation_steps(
    config.validation_data, ranks.size(strategy), strategy.num_replicas_in_sync
  )
  return datasets, num_steps
