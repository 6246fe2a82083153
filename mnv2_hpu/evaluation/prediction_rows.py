"""Predictions as lines of text: a table, JSON lines or CSV, for each task."""

import csv
import io
import json
from collections.abc import Callable, Iterable

from mnv2_hpu.evaluation.prediction_fields import MIN_FRACTION, TOP, Prediction

Row = Callable[[Prediction], str]

_FILE_WIDTH = 40
_SIDES = ("ymin", "xmin", "ymax", "xmax")


def _table_line(result: Prediction, text: str) -> str:
  name = result.file.replace("\n", "␊")
  if len(name) > _FILE_WIDTH:
    name = f"…{name[1 - _FILE_WIDTH :]}"
  text = f"cannot be read: {result.error}" if result.error else text
  return f"{name:<{_FILE_WIDTH}}  {text}"


def _csv_line(values: Iterable[object]) -> str:
  buffer = io.StringIO()
  csv.writer(buffer, lineterminator="\n").writerow(values)  # else "\n" is not quoted
  return buffer.getvalue().removesuffix("\n")


def _class_table(result: Prediction) -> str:
  return _table_line(
    result, "  ".join(f"{name} {value:.1%}" for name, value in result.classes)
  )


def _class_json(result: Prediction) -> str:
  if result.error:
    return json.dumps({"file": result.file, "error": result.error})
  classes = [{"class": name, "probability": p} for name, p in result.classes]
  return json.dumps({"file": result.file, "predictions": classes})


def _class_csv(result: Prediction) -> str:
  pairs = [value for pair in result.classes for value in pair]
  padding = [""] * (2 * TOP - len(pairs))
  return _csv_line([result.file, *pairs, *padding, result.error])


def _box_table(result: Prediction) -> str:
  found = (
    f"{d.name} {d.score:.1%} [{' '.join(f'{edge:.0f}' for edge in d.box)}]"
    for d in result.detections
  )
  return _table_line(result, "  ".join(found) or "nothing found")


def _box_json(result: Prediction) -> str:
  if result.error:
    return json.dumps({"file": result.file, "error": result.error})
  found = [
    {"class": d.name, "score": d.score, "box": dict(zip(_SIDES, d.box, strict=True))}
    for d in result.detections
  ]
  return json.dumps({"file": result.file, "detections": found})


def _box_csv(result: Prediction) -> str:
  """One line for each box, or one without a box."""
  rows = [[d.name, d.score, *d.box] for d in result.detections]
  rows = rows or [[""] * (2 + len(_SIDES))]
  return "\n".join(_csv_line([result.file, *row, result.error]) for row in rows)


def _area_table(result: Prediction) -> str:
  shown = [area for area in result.areas if area.fraction >= MIN_FRACTION]
  found = [f"{area.name} {area.fraction:.1%}" for area in shown]
  if len(shown) < len(result.areas):
    found.append(f"{len(result.areas) - len(shown)} below {MIN_FRACTION:.1%}")
  return _table_line(result, "  ".join(found))


def _area_json(result: Prediction) -> str:
  if result.mask is None:
    return json.dumps({"file": result.file, "error": result.error})
  height, width = result.mask.shape
  classes = [
    {"class": a.name, "label": a.label, "pixels": a.pixels, "fraction": a.fraction}
    for a in result.areas
  ]
  return json.dumps(
    {"file": result.file, "height": height, "width": width, "classes": classes}
  )


def _area_csv(result: Prediction) -> str:
  """One line for each class, or one without a class."""
  rows = [[a.name, a.label, a.pixels, a.fraction] for a in result.areas]
  rows = rows or [[""] * (len(_AREA_COLUMNS) - 2)]
  return "\n".join(_csv_line([result.file, *row, result.error]) for row in rows)


_CLASS_COLUMNS = [
  "file",
  *(f"{name}_{i}" for i in range(1, TOP + 1) for name in ("class", "probability")),
  "error",
]
_BOX_COLUMNS = ["file", "class", "score", *_SIDES, "error"]
_AREA_COLUMNS = ["file", "class", "label", "pixels", "fraction", "error"]

# Header, and the row of a prediction, of each --format, by task.
FORMATS: dict[str, dict[str, tuple[str, Row]]] = {
  "classification": {
    "table": ("", _class_table),
    "jsonl": ("", _class_json),
    "csv": (_csv_line(_CLASS_COLUMNS), _class_csv),
  },
  "detection": {
    "table": ("", _box_table),
    "jsonl": ("", _box_json),
    "csv": (_csv_line(_BOX_COLUMNS), _box_csv),
  },
  "segmentation": {
    "table": ("", _area_table),
    "jsonl": ("", _area_json),
    "csv": (_csv_line(_AREA_COLUMNS), _area_csv),
  },
}
