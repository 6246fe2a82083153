import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from mnv2_hpu.data_preparation import digits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("digits")
  return root, digits.write_digits(str(root))


def test_every_digit_is_written_once(folder):
  root, counts = folder
  indices = sorted(int(path.stem) for path in root.glob("*/*/*.png"))
  assert indices == list(range(1797))
  assert counts == {"train": 1438, "validation": 359}


def test_a_fifth_of_each_digit_is_held_out(folder):
  root, _ = folder
  targets = datasets.load_digits().target
  for digit in range(10):
    held_out = len(list((root / "validation" / str(digit)).iterdir()))
    assert abs(held_out - 0.2 * np.sum(targets == digit)) <= 0.5


@pytest.mark.parametrize("index", [0, 1, 900, 1796])
def test_images_are_the_scans_and_lie_under_their_digit(folder, index):
  data = datasets.load_digits()
  (path,) = folder[0].glob(f"*/*/{index:04d}.png")
  assert path.parent.name == str(data.target[index])
  with Image.open(path) as image:
    assert (image.mode, image.size) == ("RGB", (32, 32))
    # Averaging each 4x4 block undoes the upscaling up to the filter's ringing.
    blocks = np.asarray(image.convert("L"), float).reshape(8, 4, 8, 4).mean((1, 3))
  correlation = np.corrcoef(blocks.ravel(), data.images[index].ravel())[0, 1]
  assert correlation > 0.98


def test_another_seed_leaves_no_digit_in_both_splits(tmp_path):
  for seed in (0, 1):
    digits.write_digits(str(tmp_path), seed)
  assert len(list(tmp_path.glob("*/*/*.png"))) == 1797
