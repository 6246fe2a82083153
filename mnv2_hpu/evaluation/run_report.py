"""metrics.json and report.html of a training run and its export."""

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from official.core import config_definitions as cfg
from sklearn.metrics import confusion_matrix

from mnv2_hpu import files
from mnv2_hpu.core import run_record
from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation import checked_export, evaluator, metrics, predictions
from mnv2_hpu.evaluation.sets import report_files
from mnv2_hpu.reporting import curves, plots, report
from mnv2_hpu.serving import check_result, metadata
from mnv2_hpu.serving.image_classification import ClassificationModule

MAX_SAMPLES = 50
_MAX_FIGURE_SAMPLES = 36
_SUBJECT = "report of a training run"
# Metric of a check after export -> its name in metrics.json.
_METRICS = {
  "AP": "map",
  "AP50": "map50",
  "mIoU": "miou",
  "accuracy": "pixel_accuracy",
}


def write_run_report(
  model_dir: str, export_dir: str, output_dir: str, figure_path: str | None = None
) -> list[str]:
  """Writes both files, and optionally a figure of curves and predictions.

  Args:
    model_dir: Folder of the training run.
    export_dir: Folder of its export, checked.
    output_dir: Folder to write to; made where it is missing.
    figure_path: PNG file to write; None writes none.

  Returns:
    Paths of what was written.

  Raises:
    UserError: If a folder does not hold what it should.
  """
  run = _Run(
    run_record.load(model_dir),
    curves.read(model_dir),
    export_dir,
    metadata.read(export_dir),
  )
  _check_same_run(model_dir, export_dir, run.exported["path"])
  is_classifier = metadata.task_of(run.exported) == ClassificationModule.task_name
  if figure_path and not is_classifier:
    raise UserError(
      f"--figure_path={figure_path!r} shows classified images; this run is one of "
      f"{metadata.task_of(run.exported)}. Leave it out: report.html has all."
    )
  os.makedirs(output_dir, exist_ok=True)
  paths = [
    os.path.join(output_dir, name) for name in (report_files.METRICS, report_files.PAGE)
  ]
  if is_classifier:
    return [*paths, *_write_of_classifier(run, paths[0], paths[1], figure_path)]
  _write_of_set(run, model_dir, paths[0], paths[1])
  return paths


class _Run(NamedTuple):
  """A run with its export.

  Attributes:
    params: Experiment.
    logged: Scalars that it logged.
    export_dir: Folder of its export.
    exported: Content of `export.json`.
  """

  params: cfg.ExperimentConfig
  logged: curves.Curves
  export_dir: str
  exported: dict[str, Any]


def _write_of_set(run: _Run, model_dir: str, metrics_path: str, page_path: str) -> None:
  """Evaluates the exported checkpoint again, and adds its curves and its formats."""
  checked = check_result.read_as(
    checked_export.METRIC_CHECKS[metadata.task_of(run.exported)], run.export_dir
  )
  data = run.params.task.validation_data
  data.override({"input_path": checked.input_path, "num_examples": 0})
  judge, reporter = evaluator.OF_TASK[type(run.params.task)]
  result = judge.evaluate(
    run.params,
    run.exported["path"],
    weights=run.exported["weights"],
    distribution_strategy="one_device",
  )
  content = reporter.content(result, evaluator.class_names(run.params, model_dir))
  reloaded = {
    f"{_METRICS[metric]}_{name}": value
    for name, values in checked.metrics.items()
    for metric, value in values.items()
  }
  report_files.write_metrics(metrics_path, {**content.metrics, **reloaded}, result)
  formats = {
    f"Reloaded {name}": ", ".join(f"{m} {value:.2%}" for m, value in values.items())
    for name, values in checked.metrics.items()
  }
  content = content._replace(
    summary={**_settings(run.params), **content.summary, **formats},
    sections=[report.learning_curves(run.logged), *content.sections],
  )
  report_files.write_page(page_path, _SUBJECT, content, result)


def _write_of_classifier(
  run: _Run, metrics_path: str, page_path: str, figure_path: str | None
) -> list[str]:
  """Writes what the check of the export has stored; returns further files."""
  checked = check_result.read_result(run.export_dir)
  values = metrics.run_metrics(run.logged, run.exported, checked)
  num_classes = run.exported["num_classes"]
  labels, by_format = check_result.read_predictions(run.export_dir, num_classes)
  probabilities = next(iter(by_format.values()))
  samples = predictions.read_samples(run.export_dir, labels, probabilities, MAX_SAMPLES)
  names = run.exported["label_names"] or [str(label) for label in range(num_classes)]
  confusion = confusion_matrix(
    labels, probabilities.argmax(-1), labels=range(num_classes)
  )
  with files.atomic_write(metrics_path) as file:
    json.dump(values, file, indent=2)
    file.write("\n")
  report.write_report(
    page_path,
    title=f"{_network(run.params).split()[0]}: {_SUBJECT}",
    highlights=_highlights(values, run.params),
    summary=_summary(values, run.params),
    sections=[
      report.learning_curves(run.logged),
      report.confusion_matrix(confusion, names),
      report.classified_images("Held-out images", samples, names),
    ],
    footer=", ".join(f"{k} {v}" for k, v in run.exported["versions"].items()),
  )
  if not figure_path:
    return []
  plots.save_overview_png(
    figure_path,
    curves=run.logged,
    samples=samples[:_MAX_FIGURE_SAMPLES],
    class_names=names,
  )
  return [figure_path]


def _check_same_run(model_dir: str, export_dir: str, checkpoint: str) -> None:
  """Refuses the export of another run, as far as its folder is still there."""
  exported_dir = os.path.dirname(checkpoint)
  runs = (model_dir, exported_dir, os.path.dirname(exported_dir))  # or of its best_ckpt
  if not os.path.isdir(exported_dir) or not os.path.isdir(model_dir):
    return
  if not any(
    os.path.samefile(model_dir, run) for run in runs[1:] if os.path.isdir(run)
  ):
    raise UserError(
      f"--export_dir={export_dir!r} was made from {checkpoint!r}, which is not of "
      f"--model_dir={model_dir!r}. Give the export of that run, or export it first."
    )


def _evaluated(params: cfg.ExperimentConfig) -> str:
  return "EMA" if params.trainer.optimizer_config.ema else "raw"


def _highlights(
  values: Mapping[str, Any], params: cfg.ExperimentConfig
) -> dict[str, str]:
  weights = _evaluated(params)
  accuracies = {
    f"top-1, {weights} weights": "top1",
    f"top-5, {weights} weights": "top5",
  }
  return {
    # Of five classes or fewer there is no top-5.
    **{t: f"{values[name]:.2%}" for t, name in accuracies.items() if name in values},
    "held-out images": f"{values['num_examples']:,}",
    "training steps": f"{values['train_steps']:,}",
  }


def _network(params: cfg.ExperimentConfig) -> str:
  return params.task.model.backbone.get().title()


def _settings(params: cfg.ExperimentConfig) -> dict[str, str]:
  height, width = params.task.model.input_size[:2]
  return {
    "Network": f"{_network(params)}, {height} x {width}",
    "Compute dtype": params.runtime.mixed_precision_dtype,
    "Global batch": str(params.task.train_data.global_batch_size),
  }


def _summary(values: Mapping[str, Any], params: cfg.ExperimentConfig) -> dict[str, str]:
  accuracies = {
    f"Top-1, {_evaluated(params)} weights": "top1",
    "Top-1, raw weights": "top1_raw",
    "Top-1, SavedModel reloaded": "top1_saved_model",
    "Top-1, TFLite reloaded": "top1_tflite",
  }
  return {
    **_settings(params),
    "Training steps": f"{values['train_steps']:,}",
    "Held-out images": f"{values['num_examples']:,}",
    **{t: f"{values[name]:.2%}" for t, name in accuracies.items() if name in values},
  }
