"""Where the masks of predictions are written, and under which names."""

import io

import numpy as np
import pytest
from PIL import Image

from mnv2_hpu.evaluation import mask_files
from mnv2_hpu.evaluation.prediction_fields import Area, Prediction

NAMES = ["background", "cat"]


def predicted(path, size=(9, 13)):
  mask = np.zeros(size, np.uint8)
  mask[2:5, 3:9] = 1
  buffer = io.BytesIO()
  Image.fromarray(np.full([*size, 3], 90, np.uint8)).save(buffer, "PNG")
  areas = (Area("background", 99, 0.85, 0), Area("cat", 18, 0.15, 1))
  return Prediction(str(path), areas=areas, mask=mask, encoded=buffer.getvalue())


def test_folders_and_names_are_kept(tmp_path):
  files = ["a/1.jpg", "a/2.jpg", "a/2.png", "b/1.jpg", "b/two.dots.jpg"]
  results = [predicted(tmp_path / "photos" / name) for name in files]
  out = tmp_path / "out"
  writer = mask_files.MaskFiles(str(out), [r.file for r in results], NAMES)
  for result in results:
    writer.write(result)
  found = sorted(p.relative_to(out / "masks").as_posix() for p in out.rglob("*.png"))
  assert found == ["a/1.png", "a/2.jpg.png", "a/2.png.png", "b/1.png", "b/two.dots.png"]
  assert len(list((out / "blended").rglob("*.jpg"))) == len(files)
  with Image.open(out / "masks" / "b" / "1.png") as image:
    np.testing.assert_array_equal(np.asarray(image), results[3].mask)


def test_one_image_alone(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  mask_files.MaskFiles("out", ["cat.jpg"], NAMES).write(predicted("cat.jpg"))
  with Image.open("out/blended/cat.jpg") as image:
    assert image.width == 320  # enlarged, for the legend
    assert image.height > 320 * 9 / 13
    red, green, blue = image.getpixel((round(320 * 5 / 13), round(320 * 3 / 13)))
  assert red > green > blue  # orange over gray


def test_a_file_that_could_not_be_read_has_no_mask(tmp_path):
  writer = mask_files.MaskFiles(str(tmp_path / "out"), ["x.jpg"], NAMES)
  writer.write(Prediction("x.jpg", error="it is no image"))
  assert not (tmp_path / "out").exists()
  with pytest.raises(ValueError, match="has no mask"):
    mask_files.blend(Prediction("x.jpg"), NAMES, 100)
