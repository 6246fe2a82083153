"""Evaluates a run: one of its checkpoints on a whole set, or each new one."""

import os
import sys
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import task_factory, train_lib
from official.modeling import performance

from mnv2_hpu.checkpoints import import_record
from mnv2_hpu.configs import (
  image_classification,
  object_detection,
  quantization,
  semantic_segmentation,
)
from mnv2_hpu.core import checkpoint_integrity, run_record, trainer
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo
from mnv2_hpu.distribute import strategies
from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation import run_watcher, sidecar
from mnv2_hpu.evaluation.sets import (
  classification,
  classification_report,
  detection,
  detection_report,
  report_files,
  segmentation,
  segmentation_report,
)

# What evaluates a set and what says so, by the configuration of the task.
OF_TASK: dict[type, Any] = {
  image_classification.ImageClassificationTask: (classification, classification_report),
  object_detection.ObjectDetectionTask: (detection, detection_report),
  semantic_segmentation.SemanticSegmentationTask: (segmentation, segmentation_report),
}


def evaluate(
  model_dir: str | None = None,
  *,
  checkpoint: str | None = None,
  weights: str | None = None,
  input_path: str | None = None,
  output_dir: str | None = None,
  distribution_strategy: str | None = None,
) -> str:
  """Evaluates one checkpoint on every image of a set, each once.

  Args:
    model_dir: Folder of the training run; that of `checkpoint` if None.
    checkpoint: A checkpoint, or a folder: its newest; `model_dir`'s if None.
    weights: `"ema"` or `"raw"`; EMA weights where the run keeps them if None.
    input_path: Pattern of TFRecords; the run's validation files if None.
    output_dir: Folder to write metrics, classes and a page to; None writes none.
    distribution_strategy: Name of the strategy; the training's if None.

  Returns:
    Lines with the metrics, and what was written.

  Raises:
    UserError: If there is no such run or checkpoint, or the images cannot be read.
  """
  if model_dir is None and checkpoint is None:
    raise UserError("Neither --model_dir nor --checkpoint is given. Give one of them.")
  run_dir = model_dir or run_folder(checkpoint or "")
  params = run_record.load(run_dir)
  if checkpoint is None:
    checkpoint_integrity.require_checkpoint(run_dir)
  names = class_names(params, run_dir)
  if not (input_path or params.task.validation_data.input_path):
    raise UserError(
      f"{run_dir!r} holds imported weights, which have no validation files. Give "
      "--input_path: a pattern of TFRecords."
    )
  judge, reporter = OF_TASK[quantization.float_type(params.task)]
  if input_path is not None:
    params.task.validation_data.override({"input_path": input_path, "num_examples": 0})
    data_dir = os.path.dirname(input_path)
    if info := DatasetInfo.find(data_dir):
      info.check_task(judge.TASK, data_dir)
  result = judge.evaluate(
    params,
    checkpoint or run_dir,
    weights=weights or default_weights(params),
    distribution_strategy=distribution_strategy,
  )
  lines = [reporter.table(result, names)]
  if output_dir is not None:
    content = reporter.content(result, names)
    written = report_files.write(result, content, output_dir)
    lines.append(f"wrote {', '.join(written)}")
  return "\n".join(lines)


def run_folder(checkpoint: str) -> str:
  """Returns the folder of the run that a checkpoint is of.

  Args:
    checkpoint: A checkpoint or a folder: that of a run, or its folder `best`.
  """
  folder = checkpoint if tf.io.gfile.isdir(checkpoint) else os.path.dirname(checkpoint)
  for candidate in (folder, os.path.join(folder, os.pardir)):
    if tf.io.gfile.exists(os.path.join(candidate, run_record.FILE)):
      return os.path.normpath(candidate) if candidate != folder else folder
  return folder


def dataset_info(params: cfg.ExperimentConfig, run_dir: str) -> DatasetInfo | None:
  """Returns the `dataset.json` of a run's data, None where there is none.

  Args:
    params: Experiment of a run.
    run_dir: Its folder, where a training keeps a copy, which earlier releases did not.
  """
  input_path = params.task.validation_data.input_path
  beside = DatasetInfo.find(os.path.dirname(input_path)) if input_path else None
  return DatasetInfo.find(run_dir) or beside


def default_weights(params: cfg.ExperimentConfig) -> str:
  """Returns `"ema"` where a run keeps EMA weights, else `"raw"`.

  Args:
    params: Experiment of the run.
  """
  return "ema" if params.trainer.optimizer_config.ema else "raw"


def label_names(params: cfg.ExperimentConfig, run_dir: str) -> list[str] | None:
  """Returns the name of each class of a run, None where nothing says it.

  Those of a detector are without the background.

  Args:
    params: Experiment of the run.
    run_dir: Its folder, or that of imported weights.
  """
  dataset, num_classes = dataset_info(params, run_dir), params.task.model.num_classes
  imported = import_record.find(run_dir) or {}
  names = dataset.label_names if dataset else imported.get("label_names")
  if dataset and dataset.task == "detection":
    names = dataset.label_names[1:]
  return list(names) if names and len(names) == num_classes else None


def class_names(params: cfg.ExperimentConfig, run_dir: str) -> list[str]:
  """Returns the name of each class of a run; where nothing says it, its number.

  A line on standard error says so, since the number of a class may look like a name.

  Args:
    params: Experiment of the run.
    run_dir: Its folder, or that of imported weights.
  """
  names = label_names(params, run_dir)
  if names is None:
    names = [str(label) for label in range(params.task.model.num_classes)]
    data_dir = os.path.dirname(params.task.validation_data.input_path or "")
    print(
      "warning: classes are shown by number, since no dataset.json in "
      f"{run_dir!r} or {data_dir!r} names them.",
      file=sys.stderr,
    )
  return names


def evaluate_continuously(
  model_dir: str | None, timeout: int = 3600, distribution_strategy: str | None = None
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
  if model_dir is None:
    raise UserError("--continuous needs --model_dir: the folder of the training run.")
  watcher = run_watcher.RunWatcher(model_dir, timeout)
  watcher.wait_for_run()
  params = run_record.load(model_dir)
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
