"""Photo crops as an image folder, from the sample photos of installed packages.

Three photos, cut into ten regions, which are the classes. A region is a grid of cells;
every fifth one is held out, and each crop lies within one cell: no held-out pixel is
ever trained on.
"""

from pathlib import Path

import numpy as np
from PIL import Image

CELL = 64  # pixels
# Photo: rows and columns of its regions.
PHOTOS = {"china": (2, 2), "flower": (2, 2), "hopper": (2, 1)}
FIVE = ("china-0", "china-3", "flower-0", "flower-3", "hopper-0")


def _photos():
  import matplotlib.cbook
  from sklearn import datasets

  with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
    hopper = np.asarray(Image.open(file).convert("RGB"))
  images = datasets.load_sample_images().images
  return {"china": images[0], "flower": images[1], "hopper": hopper}


def regions():
  """Returns uint8 `[height, width, 3]` of each region by its name."""
  found = {}
  for name, photo in _photos().items():
    rows, columns = PHOTOS[name]
    parts = [
      part
      for row in np.array_split(photo, rows)
      for part in np.array_split(row, columns, axis=1)
    ]
    found |= {f"{name}-{number}": part for number, part in enumerate(parts)}
  return found


def _crop(random, region, cells):
  top, left = cells[random.integers(len(cells))]
  side = random.integers(CELL * 5 // 8, CELL + 1)
  top += random.integers(CELL - side + 1)
  left += random.integers(CELL - side + 1)
  brightness = random.uniform(0.7, 1.2)
  crop = region[top : top + side, left : left + side] * brightness
  return Image.fromarray(np.clip(crop, 0, 255).astype(np.uint8))


def write_crops(folder, num_train, num_validation, size, classes=None, seed=0):
  """Writes `<folder>/{train,validation}/<class>/<index>.jpg`, sizes of the squares.

  Args:
    folder: Folder to write.
    num_train: Training images of all classes together.
    num_validation: Held-out images likewise.
    size: Height and width in pixels.
    classes: Names of regions; None is all ten.
    seed: Seed of the crops.
  """
  random = np.random.default_rng(seed)
  found = regions()
  names = classes or list(found)
  for name in names:
    region = found[name]
    height, width = region.shape[:2]
    grid = [
      (top, left)
      for top in range(0, height - CELL + 1, CELL)
      for left in range(0, width - CELL + 1, CELL)
    ]
    held_out = grid[2::5]
    splits = {
      "train": (num_train, [cell for cell in grid if cell not in held_out]),
      "validation": (num_validation, held_out),
    }
    for split, (count, cells) in splits.items():
      target = Path(folder) / split / name
      target.mkdir(parents=True, exist_ok=True)
      for index in range(count // len(names)):
        crop = _crop(random, region, cells).resize(
          (size, size), Image.Resampling.BICUBIC
        )
        crop.save(target / f"{index:04d}.jpg", quality=92)
