"""Evaluates the EMA weights of a run: its newest checkpoint, or each new one."""

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import task_factory, train_lib
from official.modeling import performance

from mnv2_hpu.configs import image_classification as exp_cfg
from mnv2_hpu.core import checkpoint_integrity, run_record, trainer
from mnv2_hpu.distribute import strategies
from mnv2_hpu.evaluation import run_watcher, sidecar


def evaluate(model_dir: str, distribution_strategy: str | None = None) -> str:
  """Evaluates the newest checkpoint.

  Args:
    model_dir: Folder of the training run.
    distribution_strategy: Name of the strategy; the training's if None.

  Returns:
    Lines with the metrics.

  Raises:
    UserError: If the folder holds no run, or no checkpoint.
  """
  params = run_record.load(model_dir, exp_cfg.ImageClassificationTask())
  checkpoint_integrity.require_checkpoint(model_dir)
  evaluating = _build_trainer(params, model_dir, distribution_strategy)
  with evaluating.strategy.scope():
    evaluating.checkpoint.restore(tf.train.latest_checkpoint(model_dir))
  metrics = evaluating.evaluate(tf.constant(params.trainer.validation_steps))
  lines = [f"step {int(evaluating.global_step.numpy()):,}, EMA weights"]
  lines += [
    f"  {name:<20} {float(value):.5f}" for name, value in sorted(metrics.items())
  ]
  return "\n".join(lines)


def evaluate_continuously(
  model_dir: str, timeout: int = 3600, distribution_strategy: str | None = None
) -> str:
  """Evaluates each checkpoint as it comes, until the training has ended.

  The best one is kept in the folder `best` of the run, with its metrics; all metrics
  stand in `evaluations.jsonl`, from which a sidecar that is started again goes on.

  Args:
    model_dir: Folder of the training run, which may not have begun.
    timeout: Seconds to wait for a run, or for its next checkpoint.
    distribution_strategy: Name of the strategy; `one_device` if None, since the
      training holds the devices of its own.

  Returns:
    Lines on the best checkpoint, and on those that were gone before their turn.

  Raises:
    UserError: If no run appears in time, no checkpoint comes in time, or the training
      is gone without having finished.
  """
  watcher = run_watcher.RunWatcher(model_dir, timeout)
  watcher.wait_for_run()
  params = run_record.load(model_dir, exp_cfg.ImageClassificationTask())
  params.trainer.best_checkpoint_export_subdir = sidecar.BEST_SUBDIR
  params.trainer.best_checkpoint_eval_metric = (
    params.trainer.best_checkpoint_eval_metric or "accuracy"
  )
  evaluating = _build_trainer(
    params, model_dir, distribution_strategy or "one_device", keep_best=True
  )
  log = sidecar.EvaluationLog(model_dir)
  follower = sidecar.Sidecar(evaluating, model_dir, log)
  try:
    for path, written in watcher.checkpoints(log.metrics):
      print(follower.evaluate(path, written), flush=True)
  except BaseException:
    print(follower.summary(), flush=True)
    raise
  return follower.summary()


def _build_trainer(
  params: cfg.ExperimentConfig,
  model_dir: str,
  distribution_strategy: str | None,
  keep_best: bool = False,
) -> trainer.Trainer:
  """Builds this project's trainer of a run, to evaluate alone."""
  performance.set_mixed_precision_policy(params.runtime.mixed_precision_dtype)
  strategy = strategies.get_distribution_strategy(
    distribution_strategy or params.runtime.distribution_strategy,
    num_gpus=params.runtime.num_gpus,
  )
  exporter = (
    train_lib.maybe_create_best_ckpt_exporter(params, model_dir) if keep_best else None
  )
  with strategy.scope():
    task = task_factory.get_task(params.task, logging_dir=model_dir)
    model = task.build_model()
    optimizer = task.create_optimizer(params.trainer.optimizer_config, params.runtime)
    return trainer.Trainer(
      params,
      task,
      model,
      optimizer,
      train=False,
      checkpoint_exporter=exporter,
    )
