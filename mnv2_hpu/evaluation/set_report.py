"""What an evaluation found, for people and programs: a table, JSON, CSV, a page."""

import csv
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mnv2_hpu import __version__, compat, files
from mnv2_hpu.checkpoints.restore import RestoredCheckpoint
from mnv2_hpu.evaluation.whole_set import Result
from mnv2_hpu.reporting import report

METRICS, PER_CLASS, PAGE = "metrics.json", "per_class.csv", "report.html"
_COLUMNS = (
  *("label", "name", "images", "correct", "accuracy"),
  *("confused_with", "times"),
)
_MAX_CLASSES = 20  # on the screen; per_class.csv has all


def table(result: Result, class_names: Sequence[str]) -> str:
  """Returns the lines to print: the metrics, and the classes, the worst first.

  Args:
    result: What was found.
    class_names: Name of each label.
  """
  restored, counts = result.restored, result.counts
  step = restored.global_step
  lines = [
    f"step {'unknown' if step is None else f'{step:,}'}, "
    f"{weights_name(restored)} weights of {restored.path}",
    f"{counts.num_examples:,} images of {result.input_path}, "
    f"{result.images_per_second:,.0f} images/s",
    *(f"  {name:<20} {value:.5f}" for name, value in result.metrics().items()),
  ]
  images, correct = counts.confusion.sum(axis=1), counts.confusion.diagonal()
  accuracy = correct / np.maximum(images, 1)
  worst = [label for label in np.argsort(accuracy, kind="stable") if images[label]]
  shown = worst[:_MAX_CLASSES]
  width = max((len(class_names[label]) for label in shown), default=0)
  lines.append("accuracy by class, the lowest first:")
  lines += [
    f"  {class_names[label]:<{width}}  {accuracy[label]:7.2%}  of {images[label]:,}"
    for label in shown
  ]
  if len(worst) > len(shown):
    lines.append(f"  … {len(worst) - len(shown):,} more; --output_dir writes all")
  return "\n".join(lines)


def write(result: Result, class_names: Sequence[str], output_dir: str) -> list[str]:
  """Writes `metrics.json`, `per_class.csv` and `report.html`; returns their paths.

  Args:
    result: What was found.
    class_names: Name of each label.
    output_dir: Folder to write to; made where it is missing.
  """
  os.makedirs(output_dir, exist_ok=True)
  paths = [os.path.join(output_dir, name) for name in (METRICS, PER_CLASS, PAGE)]
  with files.atomic_write(paths[0]) as file:
    json.dump(_metrics(result), file, indent=2)
    file.write("\n")
  _write_classes(paths[1], result.counts.confusion, class_names)
  metrics = result.metrics()
  report.write_report(
    paths[2],
    title="MobileNetV2: evaluation of a checkpoint",
    highlights={
      "top-1": f"{metrics['accuracy']:.2%}",
      **{f"top-{k}": f"{v:.2%}" for k, v in [(5, metrics.get("top_5_accuracy"))] if v},
      "loss": f"{metrics['validation_loss']:.4f}",
      "images": f"{result.counts.num_examples:,}",
    },
    summary={
      "Checkpoint": result.restored.path,
      "Weights": weights_name(result.restored),
      "Training steps": f"{result.restored.global_step or 0:,}",
      "Images": result.input_path,
      "Images/s": f"{result.images_per_second:,.0f}",
    },
    sections=[
      report.confusion_matrix(result.counts.confusion, class_names),
      report.calibration_chart(result.counts.calibration),
      report.classified_images("The surest mistakes", result.mistakes, class_names),
    ],
    footer=", ".join(f"{name} {version}" for name, version in versions().items()),
  )
  return paths


def weights_name(restored: RestoredCheckpoint) -> str:
  """Returns which weights of a checkpoint were read, for people."""
  return "EMA" if restored.weights == "ema" else "raw"


def versions() -> dict[str, str]:
  """Returns what evaluates: this package's, TensorFlow's, Model Garden's version."""
  return {
    "mnv2_hpu": __version__,
    "tensorflow": tf.__version__,
    compat.MODEL_GARDEN: compat.version(compat.MODEL_GARDEN),
  }


def _metrics(result: Result) -> dict[str, Any]:
  metrics = result.metrics()
  names = {
    "top1": "accuracy",
    "top5": "top_5_accuracy",
    "loss": "validation_loss",
    "calibration_error": "calibration_error",
  }
  return {
    **{name: metrics[of] for name, of in names.items() if of in metrics},
    "num_examples": result.counts.num_examples,
    "images_per_second": round(result.images_per_second, 1),
    "train_steps": result.restored.global_step,
    "weights": result.restored.weights,
    "checkpoint": result.restored.path,
    "input_path": result.input_path,
    "versions": versions(),
  }


def _write_classes(
  path: str, confusion: np.ndarray, class_names: Sequence[str]
) -> None:
  """Writes a row for each class: images, correct, what it is most confused with."""
  with files.atomic_write(path) as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for label, row in enumerate(confusion):
      images, correct = int(row.sum()), int(row[label])
      others = np.where(np.arange(len(row)) == label, 0, row)
      other, times = int(others.argmax()), int(others.max())
      accuracy = f"{correct / images:.4f}" if images else ""
      confused = [class_names[other] if times else "", times]
      writer.writerow([label, class_names[label], images, correct, accuracy, *confused])
