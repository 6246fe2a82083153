"""scikit-learn's handwritten digits as an image folder: the quickstart's real data."""

from pathlib import Path

import numpy as np
from PIL import Image

from mnv2_hpu.data_preparation import listing

IMAGE_SIZE = 32  # pixels; the scans are 8x8, upscaled so that people can look at them
_MAX_VALUE = 16  # a scan counts the ink in 4x4 blocks of a 32x32 bitmap


def write_digits(
  output_dir: str, seed: int = 0, validation_fraction: float = 0.2
) -> dict[str, int]:
  """Writes `<output_dir>/{train,validation}/<digit>/<index>.png`.

  The 1,797 images of `sklearn.datasets.load_digits` (the test part of "Optical
  Recognition of Handwritten Digits", UCI), 8x8 pixels of 0..16, scaled to 0..255,
  upscaled bicubically to 32x32, RGB. Index is the image's position in scikit-learn's
  arrays. Running it again gives the same files; what another seed or fraction left in
  the other split is removed.

  Args:
    output_dir: Folder to write; made if absent.
    seed: Seed of the stratified choice of what is held out.
    validation_fraction: Fraction of each digit that is held out.

  Returns:
    Number of images by split.
  """
  from sklearn import datasets

  listing.check_fraction(validation_fraction)
  digits = datasets.load_digits()
  by_class = {
    str(digit): np.flatnonzero(digits.target == digit).tolist() for digit in range(10)
  }
  train, validation = listing.stratified(by_class, validation_fraction, seed)
  counts = {}
  root = Path(output_dir)
  for split, other, chosen in (
    ("train", "validation", train),
    ("validation", "train", validation),
  ):
    counts[split] = sum(len(indices) for indices in chosen.values())
    for digit, indices in chosen.items():
      folder = root / split / digit
      folder.mkdir(parents=True, exist_ok=True)
      for index in indices:
        name = f"{index:04d}.png"
        _image(digits.images[index]).save(folder / name)
        (root / other / digit / name).unlink(missing_ok=True)
  return counts


def _image(scan: np.ndarray) -> Image.Image:
  """Returns the RGB image of a scan, float64 `[8, 8]` of 0..16."""
  grey = np.rint(scan * (255 / _MAX_VALUE)).astype(np.uint8)
  upscaled = Image.fromarray(grey).resize(
    (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC
  )
  return upscaled.convert("RGB")
