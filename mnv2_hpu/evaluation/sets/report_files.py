"""What an evaluation found, in the form that all tasks share: lines, JSON, CSV, a page.

A task's `*_report` module brings the `Content`, and a table for the screen.
"""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from mnv2_hpu import __version__, compat, files
from mnv2_hpu.checkpoints.restore import RestoredCheckpoint
from mnv2_hpu.reporting import report

METRICS, PER_CLASS, PAGE = "metrics.json", "per_class.csv", "report.html"
MAX_CLASSES = 20  # on the screen; per_class.csv has all


class SetResult(Protocol):
  """What the results of all tasks have in common."""

  @property
  def restored(self) -> RestoredCheckpoint:
    """Checkpoint, and which of its weights."""

  @property
  def input_path(self) -> str:
    """Pattern of the TFRecords."""

  @property
  def num_images(self) -> int:
    """Images evaluated."""

  @property
  def images_per_second(self) -> float:
    """Speed, the compilation before the first batch included."""

  def metrics(self) -> dict[str, float]:
    """Returns the metrics by the names under which training logs them."""


class Content(NamedTuple):
  """What is written of a result.

  Attributes:
    network: Name of the kind of network, for the title.
    metrics: Metrics of `metrics.json`.
    columns: Columns of `per_class.csv`.
    rows: Its rows, by column.
    highlights: A few numbers for large type: name to text.
    summary: Further rows of the page's table of settings: name to text.
    sections: Sections of the page, HTML.
  """

  network: str
  metrics: Mapping[str, Any]
  columns: Sequence[str]
  rows: Sequence[Mapping[str, Any]]
  highlights: Mapping[str, str]
  summary: Mapping[str, str]
  sections: Sequence[str]


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


def heading(result: SetResult) -> list[str]:
  """Returns the first lines of a table: checkpoint, images, metrics."""
  restored = result.restored
  step = restored.global_step
  return [
    f"step {'unknown' if step is None else f'{step:,}'}, "
    f"{weights_name(restored)} weights of {restored.path}",
    f"{result.num_images:,} images of {result.input_path}, "
    f"{result.images_per_second:,.0f} images/s",
    *(f"  {name:<20} {value:.5f}" for name, value in result.metrics().items()),
  ]


def class_lines(rows: Sequence[tuple[str, str]]) -> list[str]:
  """Returns the lines of the first classes.

  Args:
    rows: Name of a class, and what is said of it.
  """
  shown = rows[:MAX_CLASSES]
  width = max((len(name) for name, _ in shown), default=0)
  lines = [f"  {name:<{width}}  {text}" for name, text in shown]
  if len(rows) > len(shown):
    lines.append(f"  … {len(rows) - len(shown):,} more; --output_dir writes all")
  return lines


def write(result: SetResult, content: Content, output_dir: str) -> list[str]:
  """Writes `metrics.json`, `per_class.csv` and `report.html`; returns their paths.

  Args:
    result: What was found.
    content: What is said of it.
    output_dir: Folder to write to; made where it is missing.
  """
  os.makedirs(output_dir, exist_ok=True)
  paths = [os.path.join(output_dir, name) for name in (METRICS, PER_CLASS, PAGE)]
  write_metrics(paths[0], content.metrics, result)
  with files.atomic_write(paths[1]) as file:
    writer = csv.DictWriter(file, content.columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(content.rows)
  write_page(paths[2], "evaluation of a checkpoint", content, result)
  return paths


def write_metrics(path: str, metrics: Mapping[str, Any], result: SetResult) -> None:
  """Writes a `metrics.json`: metrics, and what they were measured on.

  Args:
    path: File to write.
    metrics: By name.
    result: What was found.
  """
  values = {
    **metrics,
    "images_per_second": round(result.images_per_second, 1),
    "train_steps": result.restored.global_step,
    "weights": result.restored.weights,
    "checkpoint": result.restored.path,
    "input_path": result.input_path,
    "versions": versions(),
  }
  with files.atomic_write(path) as file:
    json.dump(values, file, indent=2)
    file.write("\n")


def write_page(path: str, subject: str, content: Content, result: SetResult) -> None:
  """Writes a page.

  Args:
    path: HTML file to write.
    subject: What it is about, for the title.
    content: What is said of the result.
    result: What was found.
  """
  report.write_report(
    path,
    title=f"{content.network}: {subject}",
    highlights=content.highlights,
    summary={
      "Checkpoint": result.restored.path,
      "Weights": weights_name(result.restored),
      "Training steps": f"{result.restored.global_step or 0:,}",
      "Images": result.input_path,
      "Images/s": f"{result.images_per_second:,.0f}",
      **content.summary,
    },
    sections=content.sections,
    footer=", ".join(f"{name} {version}" for name, version in versions().items()),
  )
