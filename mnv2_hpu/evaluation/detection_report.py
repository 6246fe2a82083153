"""What an evaluation of a detector found: a table, JSON, CSV, a page."""

import csv
import html
import json
import os
from collections.abc import Sequence
from typing import Any

from mnv2_hpu import files
from mnv2_hpu.evaluation import set_report
from mnv2_hpu.evaluation.detection_set import DetectionResult, DrawnImage
from mnv2_hpu.reporting import boxes, plots, report
from mnv2_hpu.tasks import coco_metrics

_COLUMNS = ("label", "name", "boxes", "AP", "AP50")
_MAX_CLASSES = 20  # on the screen and in the chart; per_class.csv has all


def table(result: DetectionResult, class_names: Sequence[str]) -> str:
  """Returns the lines to print: the metrics, and the classes, the worst first.

  Args:
    result: What was found.
    class_names: Name of each class, without the background.
  """
  restored = result.restored
  step = restored.global_step
  lines = [
    f"step {'unknown' if step is None else f'{step:,}'}, "
    f"{set_report.weights_name(restored)} weights of {restored.path}",
    f"{result.num_images:,} images of {result.input_path}, "
    f"{result.images_per_second:,.0f} images/s",
    *(f"  {name:<20} {value:.5f}" for name, value in result.metrics().items()),
    f"F1 is highest at a score of {result.score_threshold:.3f}: {result.f1:.4f}",
  ]
  rows = sorted(_per_class(result, class_names), key=lambda row: row["AP50"])
  width = max((len(row["name"]) for row in rows[:_MAX_CLASSES]), default=0)
  lines.append("average precision by class, the lowest first (AP at IoU 0.5, AP):")
  lines += [
    f"  {row['name']:<{width}}  {row['AP50']:7.2%}  {row['AP']:7.2%}  "
    f"of {row['boxes']:,} boxes"
    for row in rows[:_MAX_CLASSES]
  ]
  if len(rows) > _MAX_CLASSES:
    lines.append(f"  … {len(rows) - _MAX_CLASSES:,} more; --output_dir writes all")
  return "\n".join(lines)


def write(
  result: DetectionResult, class_names: Sequence[str], output_dir: str
) -> list[str]:
  """Writes `metrics.json`, `per_class.csv` and `report.html`; returns their paths.

  Args:
    result: What was found.
    class_names: Name of each class, without the background.
    output_dir: Folder to write to; made where it is missing.
  """
  os.makedirs(output_dir, exist_ok=True)
  names = (set_report.METRICS, set_report.PER_CLASS, set_report.PAGE)
  paths = [os.path.join(output_dir, name) for name in names]
  with files.atomic_write(paths[0]) as file:
    json.dump(_metrics(result), file, indent=2)
    file.write("\n")
  rows = _per_class(result, class_names)
  with files.atomic_write(paths[1]) as file:
    writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
  metrics = result.metrics()
  report.write_report(
    paths[2],
    title="SSDLite: evaluation of a checkpoint",
    highlights={
      "mAP at IoU 0.5": f"{metrics['AP50']:.2%}",
      "mAP": f"{metrics['AP']:.2%}",
      "F1": f"{result.f1:.2%}",
      "images": f"{result.num_images:,}",
    },
    summary={
      "Checkpoint": result.restored.path,
      "Weights": set_report.weights_name(result.restored),
      "Training steps": f"{result.restored.global_step or 0:,}",
      "Images": result.input_path,
      "Images/s": f"{result.images_per_second:,.0f}",
      "Score drawn from": f"{result.score_threshold:.3f}, where F1 is highest",
    },
    sections=[
      _precision_recall(result, class_names),
      _classes(rows),
      _images(result, class_names),
    ],
    footer=", ".join(f"{k} {v}" for k, v in set_report.versions().items()),
  )
  return paths


def _metrics(result: DetectionResult) -> dict[str, Any]:
  metrics = result.metrics()
  return {
    "map50": metrics["AP50"],
    "map": metrics["AP"],
    "f1": result.f1,
    "score_threshold": result.score_threshold,
    **metrics,
    "num_images": result.num_images,
    "images_per_second": round(result.images_per_second, 1),
    "train_steps": result.restored.global_step,
    "weights": result.restored.weights,
    "checkpoint": result.restored.path,
    "input_path": result.input_path,
    "versions": set_report.versions(),
  }


def _per_class(
  result: DetectionResult, class_names: Sequence[str]
) -> list[dict[str, Any]]:
  """Returns a row of `_COLUMNS` for each class of which there is a box."""
  truth = result.evaluation.cocoGt
  return [
    {
      "label": label,
      "name": class_names[label - 1],
      "boxes": len(truth.getAnnIds(catIds=[label])),
      "AP": round(ap, 5),
      "AP50": round(ap50, 5),
    }
    for label, (ap, ap50) in coco_metrics.per_class(result.evaluation).items()
  ]


def _precision_recall(result: DetectionResult, class_names: Sequence[str]) -> str:
  precision = result.evaluation.eval["precision"][0, :, :, 0, -1]
  labels = result.evaluation.params.catIds
  curves = [
    (class_names[label - 1], precision[:, column])
    for column, label in enumerate(labels[:_MAX_CLASSES])
  ]
  if not curves:
    return ""
  image = plots.data_uri(plots.precision_recall_svg(curves), "image/svg+xml")
  chart = f'<div class="charts"><img alt="Precision and recall" src="{image}"></div>'
  caption = "Of each class, at an IoU of 0.5."
  return report.section("Precision and recall", caption, chart)


def _classes(rows: Sequence[dict[str, Any]]) -> str:
  cells = (
    f"<tr><td>{html.escape(row['name'])}</td><td>{row['AP50']:.2%}</td>"
    f"<td>{row['AP']:.2%}</td><td>{row['boxes']:,}</td></tr>"
    for row in sorted(rows, key=lambda row: row["AP50"])
  )
  head = "<tr><th>class</th><th>AP at IoU 0.5</th><th>AP</th><th>boxes</th></tr>"
  body = (
    f'<div class="scroll"><table class="pairs">{head}{"".join(cells)}</table></div>'
  )
  return report.section("Average precision", "The lowest first.", body)


def _images(result: DetectionResult, class_names: Sequence[str]) -> str:
  figures = "".join(_figure(image, class_names) for image in result.images)
  caption = (
    "The images with the most mistakes, then some of the others. Blue: found. Red: "
    "found where nothing of that class is. Orange, dashed: missed."
  )
  return report.section("Images", caption, f'<div class="scenes">{figures}</div>')


def _figure(drawn: DrawnImage, class_names: Sequence[str]) -> str:
  def to_draw(box: coco_metrics.Box) -> boxes.Box:
    name = class_names[box.label - 1]
    if box.score is None:
      return boxes.Box(*box.corners, name, plots.ORANGE, dashed=True)
    color = plots.BLUE if box.is_hit else plots.RED
    return boxes.Box(*box.corners, f"{name} {box.score:.0%}", color)

  encoded = plots.png(drawn.image)
  image = plots.data_uri(
    boxes.draw(encoded, [to_draw(box) for box in drawn.boxes]), "image/png"
  )
  found = sum(box.is_hit for box in drawn.boxes)
  caption = f"{found} found <small>{drawn.num_mistakes} mistakes</small>"
  return (
    f'<figure><img alt="Detections" src="{image}">'
    f"<figcaption>{caption}</figcaption></figure>"
  )
