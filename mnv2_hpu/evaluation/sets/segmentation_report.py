"""What an evaluation of a segmenter found, for people and programs."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnv2_hpu.evaluation.sets import report_files
from mnv2_hpu.evaluation.sets.segmentation import DrawnImage, SegmentationResult
from mnv2_hpu.reporting import masks, plots, report
from mnv2_hpu.tasks import segmentation_metrics

_COLUMNS = ("label", "name", "pixels", "predicted", "IoU", "accuracy")
_IMAGE_SIZE = 256  # pixels of the longer side of an image on the page


def table(result: SegmentationResult, class_names: Sequence[str]) -> str:
  """Returns the lines to print: the metrics, and the classes, the worst first.

  Args:
    result: What was found.
    class_names: Name of each class.
  """
  classes = [
    (row["name"], f"{row['IoU']:7.2%}  {row['accuracy']:7.2%}  of {row['pixels']:,}")
    for row in _worst_first(_per_class(result, class_names))
  ]
  return "\n".join(
    [
      *report_files.heading(result),
      "IoU by class, the lowest first (IoU, accuracy of its pixels):",
      *report_files.class_lines(classes),
    ]
  )


def content(
  result: SegmentationResult, class_names: Sequence[str]
) -> report_files.Content:
  """Returns what is written of a result.

  Args:
    result: What was found.
    class_names: Name of each class.
  """
  rows, metrics = _per_class(result, class_names), result.metrics()
  return report_files.Content(
    network="DeepLab",
    metrics={
      "miou": metrics["mean_iou"],
      "pixel_accuracy": metrics["pixel_accuracy"],
      "loss": metrics["validation_loss"],
      "num_images": result.num_images,
    },
    columns=_COLUMNS,
    rows=rows,
    highlights={
      "mean IoU": f"{metrics['mean_iou']:.2%}",
      "pixel accuracy": f"{metrics['pixel_accuracy']:.2%}",
      "loss": f"{metrics['validation_loss']:.4f}",
      "images": f"{result.num_images:,}",
    },
    summary={},
    sections=[_classes(rows), _images(result, class_names)],
  )


def _per_class(
  result: SegmentationResult, class_names: Sequence[str]
) -> list[dict[str, Any]]:
  """Returns a row of `_COLUMNS` for each class; what the truth lacks has no IoU."""
  confusion = result.confusion
  ious = segmentation_metrics.class_ious(confusion)
  truth, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
  return [
    {
      "label": label,
      "name": name,
      "pixels": int(truth[label]),
      "predicted": int(predicted[label]),
      "IoU": "" if np.isnan(ious[label]) else round(float(ious[label]), 5),
      "accuracy": round(int(confusion[label, label]) / int(truth[label]), 5)
      if truth[label]
      else "",
    }
    for label, name in enumerate(class_names)
  ]


def _worst_first(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns the rows of the classes that the truth has."""
  return sorted((r for r in rows if r["pixels"]), key=lambda row: row["IoU"])


def _classes(rows: Sequence[dict[str, Any]]) -> str:
  cells = (
    f"<tr><td>{_swatch(row['label'])}{html.escape(row['name'])}</td>"
    f"<td>{_bar(row['IoU'])}{row['IoU']:.2%}</td><td>{row['accuracy']:.2%}</td>"
    f"<td>{row['pixels']:,}</td><td>{row['predicted']:,}</td></tr>"
    for row in _worst_first(rows)
  )
  names = ("class", "IoU", "accuracy of its pixels", "pixels", "predicted pixels")
  head = "".join(f"<th>{name}</th>" for name in names)
  body = (
    '<div class="scroll"><table class="pairs">'
    f"<tr>{head}</tr>{''.join(cells)}</table></div>"
  )
  caption = "Of the classes that the masks have, the lowest first."
  return report.section("Intersection over union", caption, body)


def _swatch(label: int) -> str:
  return f'<i class="swatch" style="background: {masks.color_of(label)}"></i>'


def _bar(fraction: float) -> str:
  return f'<i class="bar" style="width: {120 * fraction:.0f}px"></i>'


def _images(result: SegmentationResult, class_names: Sequence[str]) -> str:
  shown = sorted(
    {
      label
      for drawn in result.images
      for mask in (drawn.truth, drawn.prediction)
      for label in np.unique(mask).tolist()
      if label < len(class_names)
    }
  )
  figures = "".join(_figure(drawn, result.ignore_label) for drawn in result.images)
  caption = (
    "The images with the lowest IoU. Of each: image, truth, prediction. White: ignored."
  )
  body = (
    f"{masks.legend_html(shown, class_names)}"
    f'<div class="scenes triples">{figures}</div>'
  )
  return report.section("Images", caption, body)


def _figure(drawn: DrawnImage, ignore_label: int) -> str:
  parts = (
    drawn.image,
    masks.colored(drawn.truth, ignore_label),
    masks.colored(drawn.prediction),
  )
  gap = np.full([drawn.image.shape[0], max(1, drawn.image.shape[1] // 32), 3], 255)
  row = np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)
  encoded = plots.jpeg(masks.fit(row.astype(np.uint8), 3 * _IMAGE_SIZE))
  return (
    '<figure><img alt="Image, truth, prediction" '
    f'src="{plots.data_uri(encoded, "image/jpeg")}">'
    f"<figcaption>IoU {drawn.iou:.1%}</figcaption></figure>"
  )
