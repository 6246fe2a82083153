"""Predictions as a table, JSON lines or CSV, and as a contact sheet."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence

from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation import prediction
from mnv2_hpu.evaluation.prediction import TOP, Prediction
from mnv2_hpu.progress import Progress
from mnv2_hpu.reporting import plots

MAX_SHOWN = 120
_FILE_WIDTH = 40

Row = Callable[[Prediction], str]


def predict(
  model: str, arguments: Sequence[str], output_format: str, contact_sheet: str | None
) -> int:
  """Prints the prediction of each image as it is made; returns the exit code.

  Args:
    model: Path of a run, an export or a model, as `prediction.load` takes it.
    arguments: Files, folders, patterns.
    output_format: Name in `FORMATS`.
    contact_sheet: PNG file to write the first `MAX_SHOWN` images to; None writes
      none.

  Returns:
    0; 1 where a file could not be read.

  Raises:
    UserError: If there is no model, an argument matches nothing, or the contact sheet
      cannot be written.
  """
  if contact_sheet:
    _check_sheet(contact_sheet)
  files = prediction.find_images(arguments)
  predictor = prediction.load(model)
  header, row = FORMATS[output_format]
  if header:
    print(header)
  shown: list[Prediction] = []
  unreadable = 0
  with Progress(len(files), "image", "predict") as progress:
    for done, result in enumerate(prediction.predict_files(predictor, files), 1):
      print(row(result), flush=done % prediction.BATCH_SIZE == 0)
      unreadable += bool(result.error)
      if contact_sheet and not result.error and len(shown) < MAX_SHOWN:
        shown.append(result)
      progress.update_to(done)
  sys.stdout.flush()
  if contact_sheet and shown:
    _write_sheet(contact_sheet, shown)
    note = f"; the first {MAX_SHOWN}" if len(files) > MAX_SHOWN else ""
    print(f"wrote {contact_sheet} ({len(shown)} images{note})", file=sys.stderr)
  if unreadable:
    print(
      f"{unreadable:,} of {len(files):,} files are no images that can be read.",
      file=sys.stderr,
    )
  return int(bool(unreadable))


def _check_sheet(path: str) -> None:
  folder = os.path.dirname(path) or "."
  if not path.lower().endswith(".png"):
    raise UserError(f"--contact_sheet={path}: it is a PNG file. Give a name in .png.")
  if os.path.isdir(path) or not os.path.isdir(folder):
    problem = "it is a folder" if os.path.isdir(path) else f"there is no {folder!r}"
    raise UserError(
      f"--contact_sheet={path} cannot be written: {problem}. Give the path of a new "
      "file in a folder that exists."
    )
  if not os.access(folder, os.W_OK | os.X_OK):
    raise UserError(
      f"--contact_sheet={path} cannot be written: {folder!r} is read-only. Give a file "
      "in another folder."
    )


def _table_row(result: Prediction) -> str:
  name = result.file.replace("\n", "␊")
  if len(name) > _FILE_WIDTH:
    name = f"…{name[1 - _FILE_WIDTH :]}"
  if result.error:
    return f"{name:<{_FILE_WIDTH}}  cannot be read: {result.error}"
  classes = "  ".join(f"{name} {value:.1%}" for name, value in result.classes)
  return f"{name:<{_FILE_WIDTH}}  {classes}"


def _json_row(result: Prediction) -> str:
  if result.error:
    return json.dumps({"file": result.file, "error": result.error})
  classes = [{"class": name, "probability": p} for name, p in result.classes]
  return json.dumps({"file": result.file, "predictions": classes})


def _csv_line(values: Iterable[object]) -> str:
  buffer = io.StringIO()
  csv.writer(buffer, lineterminator="\n").writerow(values)  # else "\n" is not quoted
  return buffer.getvalue().removesuffix("\n")


def _csv_row(result: Prediction) -> str:
  pairs = [value for pair in result.classes for value in pair]
  padding = [""] * (2 * TOP - len(pairs))
  return _csv_line([result.file, *pairs, *padding, result.error])


_CSV_COLUMNS = [
  "file",
  *(f"{name}_{i}" for i in range(1, TOP + 1) for name in ("class", "probability")),
  "error",
]

# Header, and the row of a prediction, of each --format.
FORMATS: dict[str, tuple[str, Row]] = {
  "table": ("", _table_row),
  "jsonl": ("", _json_row),
  "csv": (_csv_line(_CSV_COLUMNS), _csv_row),
}


def _write_sheet(path: str, shown: Sequence[Prediction]) -> None:
  """Writes the images with file and likeliest class, many to a row."""
  plots.save_contact_sheet(
    path,
    [p.encoded for p in shown],
    [
      (os.path.basename(p.file), f"{p.classes[0][0]} {p.classes[0][1]:.0%}")
      for p in shown
    ],
  )
