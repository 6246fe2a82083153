"""What an evaluation of a classifier found, for people and programs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mnv2_hpu.evaluation.sets import report_files
from mnv2_hpu.evaluation.sets.classification import Result
from mnv2_hpu.reporting import report

_COLUMNS = (
  *("label", "name", "images", "correct", "accuracy"),
  *("confused_with", "times"),
)
_NAMES = {
  "top1": "accuracy",
  "top5": "top_5_accuracy",
  "loss": "validation_loss",
  "calibration_error": "calibration_error",
}


def table(result: Result, class_names: Sequence[str]) -> str:
  """Returns the lines to print: the metrics, and the classes, the worst first.

  Args:
    result: What was found.
    class_names: Name of each label.
  """
  confusion = result.counts.confusion
  images, correct = confusion.sum(axis=1), confusion.diagonal()
  accuracy = correct / np.maximum(images, 1)
  worst = [label for label in np.argsort(accuracy, kind="stable") if images[label]]
  classes = [
    (class_names[label], f"{accuracy[label]:7.2%}  of {images[label]:,}")
    for label in worst
  ]
  return "\n".join(
    [
      *report_files.heading(result),
      "accuracy by class, the lowest first:",
      *report_files.class_lines(classes),
    ]
  )


def content(result: Result, class_names: Sequence[str]) -> report_files.Content:
  """Returns what is written of a result.

  Args:
    result: What was found.
    class_names: Name of each label.
  """
  counts, metrics = result.counts, result.metrics()
  return report_files.Content(
    network="MobileNetV2",
    metrics={
      **{name: metrics[of] for name, of in _NAMES.items() if of in metrics},
      "num_examples": counts.num_examples,
    },
    columns=_COLUMNS,
    rows=_per_class(counts.confusion, class_names),
    highlights={
      "top-1": f"{metrics['accuracy']:.2%}",
      **{f"top-{k}": f"{v:.2%}" for k, v in [(5, metrics.get("top_5_accuracy"))] if v},
      "loss": f"{metrics['validation_loss']:.4f}",
      "images": f"{counts.num_examples:,}",
    },
    summary={},
    sections=[
      report.confusion_matrix(counts.confusion, class_names),
      report.calibration_chart(counts.calibration),
      report.classified_images("The surest mistakes", result.mistakes, class_names),
    ],
  )


def _per_class(
  confusion: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, Any]]:
  """Returns a row for each class: images, correct, what it is most confused with."""
  rows = []
  for label, row in enumerate(confusion):
    images, correct = int(row.sum()), int(row[label])
    others = np.where(np.arange(len(row)) == label, 0, row)
    other, times = int(others.argmax()), int(others.max())
    accuracy = f"{correct / images:.4f}" if images else ""
    confused = [class_names[other] if times else "", times]
    values = [label, class_names[label], images, correct, accuracy, *confused]
    rows.append(dict(zip(_COLUMNS, values, strict=True)))
  return rows
