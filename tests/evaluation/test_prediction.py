"""Which files are predicted, what is printed of them, and what is no image."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation import prediction, prediction_output

NAMES = ["red", "green", "a $blue$, one", "grey"]


def colors(encoded):
  """Predicts the channel that is brightest."""
  import tensorflow as tf

  rows = [tf.io.decode_image(e, 3).numpy().mean((0, 1)) + 1e-3 for e in encoded]
  rows = np.stack([[*row, 0] for row in rows])
  return {"probs": rows / rows.sum(-1, keepdims=True)}


@pytest.fixture
def predictor(monkeypatch):
  loaded = prediction.Predictor(colors, NAMES, 16)
  monkeypatch.setattr(prediction, "load", lambda path: loaded)
  return loaded


@pytest.fixture
def folder(tmp_path):
  """Three images in two folders, of two formats, and two files that are none."""
  (tmp_path / "b").mkdir()
  Image.new("RGB", (20, 9), (200, 30, 10)).save(tmp_path / "red.png")
  Image.new("RGB", (8, 8), (0, 0, 255)).save(tmp_path / "b" / "blue.webp")
  Image.new("RGB", (9, 30), (0, 99, 0)).save(tmp_path / "b" / "green.jpg")
  (tmp_path / "b" / "notes.txt").write_text("no image")
  (tmp_path / "cut.png").write_bytes((tmp_path / "red.png").read_bytes()[:50])
  (tmp_path / ".DS_Store").write_text("the system's")
  return tmp_path


def run(capsys, *arguments, output_format="table", contact_sheet=None):
  code = prediction_output.predict("model", arguments, output_format, contact_sheet)
  return code, *capsys.readouterr()


def test_a_folder_is_searched_and_what_is_no_image_counted(predictor, folder, capsys):
  code, output, errors = run(capsys, str(folder), output_format="jsonl")

  lines = {line["file"]: line for line in map(json.loads, output.splitlines())}
  assert list(lines) == [
    str(folder / name)
    for name in ("b/blue.webp", "b/green.jpg", "b/notes.txt", "cut.png", "red.png")
  ]
  best = {
    file.rpartition("/")[2]: line["predictions"][0]["class"]
    for file, line in lines.items()
    if "predictions" in line
  }
  assert best == {"blue.webp": NAMES[2], "green.jpg": "green", "red.png": "red"}
  assert "not an image" in lines[str(folder / "b/notes.txt")]["error"]
  assert "2 of 5 files are no images" in errors
  assert code == 1


def test_patterns_and_files_are_taken_once_in_their_order(folder):
  found = prediction.find_images(
    [str(folder / "red.png"), str(folder / "*.png"), str(folder / "b" / "g*")]
  )
  names = [path.rpartition("/")[2] for path in found]
  assert names == ["red.png", "cut.png", "green.jpg"]


def test_a_name_with_brackets_is_that_file(tmp_path):
  (tmp_path / "a[1].png").touch()
  assert prediction.find_images([str(tmp_path / "a[1].png")])


@pytest.mark.parametrize("pattern", ["none*", "missing.png"])
def test_what_matches_nothing_is_an_error(folder, pattern):
  with pytest.raises(UserError, match="matches no file"):
    prediction.find_images([str(folder / pattern)])


def test_a_model_that_does_not_exist_is_said_to(tmp_path):
  with pytest.raises(UserError, match=r"--model=.*nothing does not exist\. Give a run"):
    prediction.load(str(tmp_path / "nothing"))


def test_no_image_at_all_is_an_error():
  with pytest.raises(UserError, match="no image is named"):
    prediction.find_images([])


def test_csv_can_be_read_back(predictor, folder, capsys):
  code, output, _ = run(capsys, str(folder / "b"), output_format="csv")

  rows = list(csv.DictReader(io.StringIO(output)))
  assert [row["class_1"] for row in rows] == [NAMES[2], "green", ""]
  assert float(rows[1]["probability_1"]) > 0.9
  assert rows[2]["error"]
  assert code == 1


def test_a_name_with_a_newline_stays_one_record(predictor, folder, capsys):
  path = folder / "new\nline.png"
  (folder / "red.png").rename(path)
  _, output, _ = run(capsys, str(path), output_format="csv")
  (row,) = csv.DictReader(io.StringIO(output))
  assert row["file"] == str(path)
  _, output, _ = run(capsys, str(path))
  assert output.count("\n") == 1


@pytest.mark.parametrize(
  ("sheet", "message"),
  [
    ("missing/sheet.png", "there is no "),
    ("b.png", "it is a folder"),
    ("sheet.jpg", "it is a PNG file"),
  ],
)
def test_a_sheet_that_cannot_be_written_is_refused_at_once(folder, sheet, message):
  (folder / "b.png").mkdir()
  with pytest.raises(UserError, match=message):
    prediction_output.predict("none", ["none"], "table", str(folder / sheet))


def test_table_has_three_classes(predictor, folder, capsys):
  code, output, _ = run(capsys, str(folder / "red.png"))

  assert output.split()[1:] == [
    "red",
    "83.3%",
    "green",
    "12.5%",
    *NAMES[2].split(),
    "4.2%",
  ]
  assert code == 0


def test_contact_sheet_shows_the_images(predictor, folder, capsys):
  sheet = folder / "sheet.png"
  run(capsys, str(folder / "b"), str(folder / "red.png"), contact_sheet=str(sheet))

  with Image.open(sheet) as image:
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
  for color in ((200, 30, 10), (0, 0, 254)):
    close = (np.abs(pixels - color).max(-1) < 12).mean()
    assert close > 0.02  # a part of the sheet


def test_batches_keep_the_order(predictor, folder):
  red, green = str(folder / "red.png"), str(folder / "b" / "green.jpg")
  files = [red, green] * prediction.BATCH_SIZE
  predicted = [p.classes[0][0] for p in prediction.predict_files(predictor, files)]
  assert predicted == ["red", "green"] * prediction.BATCH_SIZE


def test_pipes_are_no_images(predictor, tmp_path):
  import os

  os.mkfifo(tmp_path / "pipe")
  (result,) = prediction.predict_files(predictor, [str(tmp_path / "pipe")])
  assert "not a regular file" in result.error
