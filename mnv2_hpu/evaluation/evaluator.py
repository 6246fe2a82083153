"""Evaluates the EMA weights of a run: its newest checkpoint, or each new one."""

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import task_factory, train_lib
from official.modeling import performance

from mnv2_hpu.configs import image_classification as exp_cfg
from mnv2_hpu.core import checkpoint_integrity, run_record, trainer
from mnv2_hpu.distribute import strategies


def evaluate(
  model_dir: str,
  *,
  continuous: bool = False,
  timeout: int = 3600,
  distribution_strategy: str | None = None,
) -> str:
  """Evaluates the newest checkpoint, or as a sidecar each one until the training ends.

  Args:
    model_dir: Folder of the training run.
    continuous: Whether to go on with each new checkpoint.
    timeout: Seconds to wait for a checkpoint if `continuous`.
    distribution_strategy: Name of the strategy; the training's if None.

  Returns:
    Lines with the metrics of the newest checkpoint; empty if `continuous`.

  Raises:
    UserError: If the folder holds no run, or no checkpoint.
  """
  params = run_record.load(model_dir, exp_cfg.ImageClassificationTask())
  params.trainer.continuous_eval_timeout = timeout
  if distribution_strategy:
    params.runtime.distribution_strategy = distribution_strategy
  if continuous:
    _runner(params, model_dir, "continuous_eval").run()
    return ""
  checkpoint_integrity.require_checkpoint(model_dir)
  evaluating = _runner(params, model_dir, "eval").trainer  # restored already
  # Not by the controller, which prints the metrics and writes them to the run's events.
  metrics = evaluating.evaluate(tf.constant(params.trainer.validation_steps))
  lines = [f"step {int(evaluating.global_step.numpy()):,}, EMA weights"]
  lines += [
    f"  {name:<20} {float(value):.5f}" for name, value in sorted(metrics.items())
  ]
  return "\n".join(lines)


def _runner(
  params: cfg.ExperimentConfig, model_dir: str, mode: str
) -> train_lib.OrbitExperimentRunner:
  """Builds Model Garden's runner with this project's trainer."""
  performance.set_mixed_precision_policy(params.runtime.mixed_precision_dtype)
  strategy = strategies.get_distribution_strategy(
    params.runtime.distribution_strategy, num_gpus=params.runtime.num_gpus
  )
  with strategy.scope():
    task = task_factory.get_task(params.task, logging_dir=model_dir)
    model = task.build_model()
    optimizer = task.create_optimizer(params.trainer.optimizer_config, params.runtime)
    evaluator = trainer.Trainer(params, task, model, optimizer, train=False)
  return train_lib.OrbitExperimentRunner(
    strategy, task, mode, params, model_dir, trainer=evaluator
  )
