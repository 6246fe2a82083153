"""Prints predictions as they are made, writes a contact sheet and masks of them."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation import mask_files, prediction, prediction_rows
from mnv2_hpu.evaluation.prediction_fields import Prediction
from mnv2_hpu.progress import Progress
from mnv2_hpu.reporting import boxes, plots

MAX_SHOWN = 120
_MASK_SIZE = 480  # pixels of the longer side of an image on the sheet


def predict(
  model: str,
  arguments: Sequence[str],
  output_format: str,
  contact_sheet: str | None,
  min_score: float = 0.3,
  output_dir: str | None = None,
) -> int:
  """Prints the prediction of each image as it is made; returns the exit code.

  Args:
    model: Path of a run, an export or a model, as `prediction.load` takes it.
    arguments: Files, folders, patterns.
    output_format: `table`, `jsonl` or `csv`.
    contact_sheet: PNG file to write the first `MAX_SHOWN` images to, those of a
      detector with their boxes, of a segmenter in the colors of their classes; None
      writes none.
    min_score: Score from which a detector's boxes are printed and drawn.
    output_dir: Folder for a segmenter's masks (`mask_files.MaskFiles`); None writes
      none.

  Returns:
    0; 1 where a file could not be read.

  Raises:
    UserError: If there is no model, an argument matches nothing, the contact sheet
      cannot be written, or a model that makes no masks is to write some.
  """
  if contact_sheet:
    _check_sheet(contact_sheet)
  files = prediction.find_images(arguments)
  predictor = prediction.load(model)
  writer = _mask_writer(output_dir, predictor, files)
  header, row = prediction_rows.FORMATS[predictor.task][output_format]
  if header:
    print(header)
  draw, layout = _SHEETS[predictor.task]
  shown: dict[str, _Cell] = {}
  unreadable = 0
  with Progress(len(files), "image", "predict") as progress:
    results = prediction.predict_files(predictor, files, min_score)
    for done, result in enumerate(results, 1):
      print(row(result), flush=done % predictor.batch_size == 0)
      unreadable += bool(result.error)
      if contact_sheet and not result.error and len(shown) < MAX_SHOWN:
        shown[result.file] = draw(result, predictor.label_names)
      if writer:
        writer.write(result)
      progress.update_to(done)
  sys.stdout.flush()
  if contact_sheet and shown:
    images = [cell.encoded for cell in shown.values()]
    captions = [(os.path.basename(f), cell.caption) for f, cell in shown.items()]
    plots.save_contact_sheet(contact_sheet, images, captions, **layout)
    note = f"; the first {MAX_SHOWN}" if len(files) > MAX_SHOWN else ""
    print(f"wrote {contact_sheet} ({len(shown)} images{note})", file=sys.stderr)
  if writer:
    print(f"wrote masks and blended images to {output_dir}", file=sys.stderr)
  if unreadable:
    print(
      f"{unreadable:,} of {len(files):,} files are no images that can be read.",
      file=sys.stderr,
    )
  return int(bool(unreadable))


def _mask_writer(
  output_dir: str | None, predictor: prediction.Predictor, files: Sequence[str]
) -> mask_files.MaskFiles | None:
  if not output_dir:
    return None
  if predictor.task != "segmentation":
    raise UserError(
      f"--output_dir={output_dir} is for the masks of a segmenter; this model is one "
      f"of {predictor.task}. Leave it out, or give --contact_sheet."
    )
  return mask_files.MaskFiles(output_dir, files, predictor.label_names)


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


class _Cell(NamedTuple):
  """An image on the contact sheet.

  Attributes:
    encoded: JPEG or PNG.
    caption: What is written above it, below the name of the file.
  """

  encoded: bytes
  caption: str


def _class_cell(result: Prediction, class_names: Sequence[str]) -> _Cell:
  del class_names
  name, probability = result.classes[0]
  return _Cell(result.encoded, f"{name} {probability:.0%}")


def _box_cell(result: Prediction, class_names: Sequence[str]) -> _Cell:
  del class_names
  drawn = [
    boxes.Box(*d.box, f"{d.name} {d.score:.0%}", boxes.color_of(d.label))
    for d in result.detections
  ]
  return _Cell(boxes.draw(result.encoded, drawn), f"{len(drawn)} found")


def _mask_cell(result: Prediction, class_names: Sequence[str]) -> _Cell:
  blended = mask_files.blend(result, class_names, _MASK_SIZE, _MASK_SIZE)
  objects = [area for area in result.areas if area.label]
  largest = (objects or result.areas)[0]
  return _Cell(plots.png(blended), f"{largest.name} {largest.fraction:.0%}")


_Draw = Callable[[Prediction, Sequence[str]], _Cell]
_LARGE = {"columns": 4, "cell_inches": 3.2}
# What draws an image, and the sheet's layout, by task.
_SHEETS: dict[str, tuple[_Draw, dict[str, Any]]] = {
  "classification": (_class_cell, {}),
  "detection": (_box_cell, _LARGE),
  "segmentation": (_mask_cell, _LARGE),
}
