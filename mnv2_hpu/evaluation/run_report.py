"""metrics.json and report.html of a training run and its export."""

import json
import os
from collections.abc import Mapping
from typing import Any

from official.core import config_definitions as cfg
from sklearn.metrics import confusion_matrix

from mnv2_hpu import files
from mnv2_hpu.core import run_record
from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation import metrics, predictions
from mnv2_hpu.reporting import curves, plots, report
from mnv2_hpu.serving import check_result, metadata

MAX_SAMPLES = 50
_MAX_FIGURE_SAMPLES = 36


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
  params = run_record.load(model_dir)
  exported = metadata.read(export_dir)
  _check_same_run(model_dir, export_dir, exported["path"])
  logged = curves.read(model_dir)
  values = metrics.run_metrics(logged, exported, check_result.read_result(export_dir))
  num_classes = exported["num_classes"]
  labels, by_format = check_result.read_predictions(export_dir, num_classes)
  probabilities = next(iter(by_format.values()))
  samples = predictions.read_samples(export_dir, labels, probabilities, MAX_SAMPLES)
  names = exported["label_names"] or [str(label) for label in range(num_classes)]
  confusion = confusion_matrix(
    labels, probabilities.argmax(-1), labels=range(num_classes)
  )
  os.makedirs(output_dir, exist_ok=True)
  written = [os.path.join(output_dir, name) for name in ("metrics.json", "report.html")]
  with files.atomic_write(written[0]) as file:
    json.dump(values, file, indent=2)
    file.write("\n")
  report.write_report(
    written[1],
    title=f"{_network(params).split()[0]}: report of a training run",
    highlights=_highlights(values, params),
    summary=_summary(values, params),
    sections=[
      report.learning_curves(logged),
      report.confusion_matrix(confusion, names),
      report.classified_images("Held-out images", samples, names),
    ],
    footer=", ".join(f"{k} {v}" for k, v in exported["versions"].items()),
  )
  if figure_path:
    plots.save_overview_png(
      figure_path,
      curves=logged,
      samples=samples[:_MAX_FIGURE_SAMPLES],
      class_names=names,
    )
    written.append(figure_path)
  return written


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


def _summary(values: Mapping[str, Any], params: cfg.ExperimentConfig) -> dict[str, str]:
  height, width = params.task.model.input_size[:2]
  accuracies = {
    f"Top-1, {_evaluated(params)} weights": "top1",
    "Top-1, raw weights": "top1_raw",
    "Top-1, SavedModel reloaded": "top1_saved_model",
    "Top-1, TFLite reloaded": "top1_tflite",
  }
  return {
    "Network": f"{_network(params)}, {height} x {width}",
    "Compute dtype": params.runtime.mixed_precision_dtype,
    "Global batch": str(params.task.train_data.global_batch_size),
    "Training steps": f"{values['train_steps']:,}",
    "Held-out images": f"{values['num_examples']:,}",
    **{t: f"{values[name]:.2%}" for t, name in accuracies.items() if name in values},
  }
