"""What an evaluation of a detector found, for people and programs."""

import html
from collections.abc import Sequence
from typing import Any

from mnv2_hpu.errors import counted
from mnv2_hpu.evaluation.sets import report_files
from mnv2_hpu.evaluation.sets.detection import DetectionResult, DrawnImage
from mnv2_hpu.reporting import boxes, plots, report
from mnv2_hpu.tasks import coco_metrics

_COLUMNS = ("label", "name", "boxes", "AP", "AP50")


def table(result: DetectionResult, class_names: Sequence[str]) -> str:
  """Returns the lines to print: the metrics, and the classes, the worst first.

  Args:
    result: What was found.
    class_names: Name of each class, without the background.
  """
  rows = sorted(_per_class(result, class_names), key=lambda row: row["AP50"])
  classes = []
  for row in rows:
    of = counted(row["boxes"], "box")
    classes.append((row["name"], f"{row['AP50']:7.2%}  {row['AP']:7.2%}  of {of}"))
  return "\n".join(
    [
      *report_files.heading(result),
      f"F1 is highest at a score of {result.score_threshold:.3f}: {result.f1:.4f}",
      "average precision by class, the lowest first (AP at IoU 0.5, AP):",
      *report_files.class_lines(classes),
    ]
  )


def content(
  result: DetectionResult, class_names: Sequence[str]
) -> report_files.Content:
  """Returns what is written of a result.

  Args:
    result: What was found.
    class_names: Name of each class, without the background.
  """
  rows, metrics = _per_class(result, class_names), result.metrics()
  return report_files.Content(
    network="SSDLite",
    metrics={
      "map50": metrics["AP50"],
      "map": metrics["AP"],
      "f1": result.f1,
      "score_threshold": result.score_threshold,
      **metrics,
      "num_images": result.num_images,
    },
    columns=_COLUMNS,
    rows=rows,
    highlights={
      "mAP at IoU 0.5": f"{metrics['AP50']:.2%}",
      "mAP": f"{metrics['AP']:.2%}",
      "F1": f"{result.f1:.2%}",
      "images": f"{result.num_images:,}",
    },
    summary={"Score drawn from": f"{result.score_threshold:.3f}, where F1 is highest"},
    sections=[
      _precision_recall(result, class_names),
      _classes(rows),
      _images(result, class_names),
    ],
  )


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
    for column, label in enumerate(labels[: report_files.MAX_CLASSES])
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
    "The images with the most mistakes, then some of the others, in the size of the "
    "network's input. Blue: found. Orange: found where nothing of that class is. "
    f"Green, dashed: missed. From a score of {result.score_threshold:.3f}, where F1 is "
    "highest; mnv2-predict draws from --min_score, by default 0.3."
  )
  return report.section("Images", caption, f'<div class="scenes">{figures}</div>')


def _figure(drawn: DrawnImage, class_names: Sequence[str]) -> str:
  def to_draw(box: coco_metrics.Box) -> boxes.Box:
    name = class_names[box.label - 1]
    if box.score is None:
      return boxes.Box(*box.corners, name, plots.GREEN, dashed=True)
    color = plots.BLUE if box.is_hit else plots.RED
    return boxes.Box(*box.corners, f"{name} {box.score:.0%}", color)

  encoded = plots.png(drawn.image)
  image = plots.data_uri(
    boxes.draw(encoded, [to_draw(box) for box in drawn.boxes], image_format="JPEG"),
    "image/jpeg",
  )
  found = sum(box.is_hit for box in drawn.boxes)
  mistakes = counted(drawn.num_mistakes, "mistake")
  caption = f"{found} found <small>{mistakes}</small>"
  return (
    f'<figure><img alt="Detections" src="{image}">'
    f"<figcaption>{caption}</figcaption></figure>"
  )
