"""Prints predictions as they are made, and writes a contact sheet of them."""

import os
import sys
from collections.abc import Sequence

from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation import prediction, prediction_rows
from mnv2_hpu.evaluation.prediction import Prediction
from mnv2_hpu.progress import Progress
from mnv2_hpu.reporting import boxes, plots

MAX_SHOWN = 120


def predict(
  model: str,
  arguments: Sequence[str],
  output_format: str,
  contact_sheet: str | None,
  min_score: float = 0.3,
) -> int:
  """Prints the prediction of each image as it is made; returns the exit code.

  Args:
    model: Path of a run, an export or a model, as `prediction.load` takes it.
    arguments: Files, folders, patterns.
    output_format: `table`, `jsonl` or `csv`.
    contact_sheet: PNG file to write the first `MAX_SHOWN` images to, those of a
      detector with their boxes; None writes none.
    min_score: Score from which a detector's boxes are printed and drawn.

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
  header, row = prediction_rows.FORMATS[predictor.task][output_format]
  if header:
    print(header)
  shown: list[Prediction] = []
  unreadable = 0
  with Progress(len(files), "image", "predict") as progress:
    results = prediction.predict_files(predictor, files, min_score)
    for done, result in enumerate(results, 1):
      print(row(result), flush=done % prediction.BATCH_SIZE == 0)
      unreadable += bool(result.error)
      if contact_sheet and not result.error and len(shown) < MAX_SHOWN:
        shown.append(result)
      progress.update_to(done)
  sys.stdout.flush()
  if contact_sheet and shown:
    _SHEETS[predictor.task](contact_sheet, shown)
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


def _write_class_sheet(path: str, shown: Sequence[Prediction]) -> None:
  """Writes the images with file and likeliest class, many to a row."""
  plots.save_contact_sheet(
    path,
    [p.encoded for p in shown],
    [
      (os.path.basename(p.file), f"{p.classes[0][0]} {p.classes[0][1]:.0%}")
      for p in shown
    ],
  )


def _write_box_sheet(path: str, shown: Sequence[Prediction]) -> None:
  """Writes the images with their boxes, a color for each class."""
  drawn = [
    boxes.draw(
      p.encoded,
      [
        boxes.Box(*d.box, f"{d.name} {d.score:.0%}", boxes.color_of(d.label))
        for d in p.detections
      ],
    )
    for p in shown
  ]
  names = [(os.path.basename(p.file), f"{len(p.detections)} found") for p in shown]
  plots.save_contact_sheet(path, drawn, names, columns=4, cell_inches=3.2)


_SHEETS = {"classification": _write_class_sheet, "detection": _write_box_sheet}
