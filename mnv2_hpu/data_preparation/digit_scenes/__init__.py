"""Scenes of real handwritten digits: the data of the quickstarts with boxes and masks.

Each scene shows several of scikit-learn's digits, written in one ink each, at scales of
1 to 4, some partly before others, on a textured ground among strokes and shapes which
are no digits. They are written as people have such data: JPEGs, COCO JSON, label PNGs.
"""

import concurrent.futures
import functools
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mnv2_hpu import files
from mnv2_hpu.data_preparation import listing
from mnv2_hpu.data_preparation.digit_scenes import scene
from mnv2_hpu.errors import UserError

CLASS_NAMES = ("background", *map(str, range(10)))
IGNORED = scene.IGNORED
_SPLITS = ("train", "val")
_HELD_OUT = 0.2  # fraction of each digit's images
_JPEG_QUALITY = 92
_MIN_SIZE = 64  # pixels
_CHUNK = 250  # scenes that a process draws at a time; it starts in about as long


def write_scenes(
  output_dir: str,
  num_train: int = 1000,
  num_validation: int = 200,
  size: tuple[int, int] = (160, 160),
  seed: int = 0,
) -> dict[str, int]:
  """Writes scenes that `--source=coco` and `--source=masks` both read.

      images/{train,val}/00001.jpg
      masks/{train,val}/00001.png               label of each pixel, see `CLASS_NAMES`
      annotations/instances_{train,val}.json    boxes; a category's id is its label
      classes.txt                               names of the labels

  A digit's label is the digit plus 1; 0 is the background, and 255 a pixel on an edge,
  which nobody is asked about. No handwriting appears in both splits: a fifth of the
  images of each digit is kept for validation. The same arguments give the same bytes;
  scene `i` is the same whatever the number of scenes.

  Args:
    output_dir: Folder to write; made if absent.
    num_train: Number of training scenes.
    num_validation: Number of held-out scenes.
    size: Height and width of a scene in pixels.
    seed: Seed of everything drawn.

  Returns:
    Number of scenes by split.

  Raises:
    UserError: The size is too small for digits of all scales, or a number is not
      positive.
  """
  numbers = dict(zip(_SPLITS, (num_train, num_validation), strict=True))
  if min(size) < _MIN_SIZE or min(numbers.values()) < 1:
    raise UserError(
      f"scenes of {size[0]}x{size[1]} pixels, {num_train} to train on and "
      f"{num_validation} to validate, cannot be made: allowed are {_MIN_SIZE} pixels "
      "and more, and one scene and more of each."
    )
  root = Path(output_dir)
  (root / "annotations").mkdir(parents=True, exist_ok=True)
  with files.atomic_write(root / "classes.txt") as file:
    file.write("\n".join(CLASS_NAMES) + "\n")
  handwriting = _handwriting(seed)
  for split, number in numbers.items():
    content = _write_split(_Split(root, split, handwriting[split], size, seed), number)
    with files.atomic_write(root / "annotations" / f"instances_{split}.json") as file:
      json.dump(content, file)
  return numbers


def _handwriting(seed: int) -> dict[str, scene.Handwriting]:
  """Returns the digits of each split, float32 images of 0 to 1."""
  from sklearn import datasets

  digits = datasets.load_digits()
  by_class = {
    str(digit): np.flatnonzero(digits.target == digit).tolist() for digit in range(10)
  }
  parts = listing.stratified(by_class, _HELD_OUT, seed)
  return {
    split: [digits.images[chosen[str(digit)]] / 16 for digit in range(10)]
    for split, chosen in zip(_SPLITS, parts, strict=True)
  }


class _Split(NamedTuple):
  """What the scenes of a split are drawn from.

  Attributes:
    root: Folder of all splits.
    name: One of `_SPLITS`.
    handwriting: Its images of each digit.
    size: Height and width of a scene in pixels.
    seed: Seed of everything drawn.
  """

  root: Path
  name: str
  handwriting: scene.Handwriting
  size: tuple[int, int]
  seed: int

  @property
  def images(self) -> Path:
    return self.root / "images" / self.name

  @property
  def masks(self) -> Path:
    return self.root / "masks" / self.name


def _write_split(split: _Split, number: int) -> dict[str, Any]:
  """Writes the images and masks of a split; returns the content of its JSON."""
  for folder in (split.images, split.masks):
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("[0-9]*"):  # left by a call for more scenes
      if path.stem.isdecimal() and int(path.stem) > number:
        path.unlink()
  entries = [
    {"image_id": index, "iscrowd": 0, **annotation}
    for index, annotations in enumerate(_write_scenes(split, number), start=1)
    for annotation in annotations
  ]
  height, width = split.size
  return {
    "images": [
      {"id": i, "file_name": f"{i:05d}.jpg", "height": height, "width": width}
      for i in range(1, number + 1)
    ],
    "annotations": [{"id": i, **entry} for i, entry in enumerate(entries, start=1)],
    "categories": [
      {"id": label, "name": name} for label, name in enumerate(CLASS_NAMES) if label
    ],
  }


def _write_scenes(split: _Split, number: int) -> list[list[dict[str, Any]]]:
  """Draws and writes scenes, many on all processors; returns the boxes of each."""
  write = functools.partial(_write_scene, split)
  indices = range(1, number + 1)
  if number <= _CHUNK:
    return [write(index) for index in indices]
  context = multiprocessing.get_context("spawn")
  processes = len(os.sched_getaffinity(0))
  with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
    return list(pool.map(write, indices, chunksize=_CHUNK))


def _write_scene(split: _Split, index: int) -> list[dict[str, Any]]:
  rng = np.random.default_rng([split.seed, _SPLITS.index(split.name), index])
  drawn = scene.draw(rng, split.handwriting, split.size)
  name = f"{index:05d}"
  Image.fromarray(drawn.pixels).save(
    split.images / f"{name}.jpg", quality=_JPEG_QUALITY
  )
  mask = Image.fromarray(drawn.labels)
  mask.putpalette(_palette())
  mask.save(split.masks / f"{name}.png")
  return _annotations(drawn)


def _annotations(drawn: scene.Scene) -> list[dict[str, Any]]:
  corners = zip(drawn.digits, drawn.boxes.tolist(), drawn.areas, strict=True)
  return [
    {
      "category_id": digit + 1,
      "bbox": [left, top, right - left, bottom - top],
      "area": area,
    }
    for digit, (top, left, bottom, right), area in corners
  ]


def _palette() -> list[int]:
  """Returns the colors of the labels: black, ten hues, and white where ignored."""
  palette = np.zeros((256, 3), np.uint8)
  hues = np.linspace(0, 255, 11)[:-1]
  hsv = np.stack([hues, np.full(10, 200), np.full(10, 235)], axis=-1)
  colors = Image.fromarray(hsv.astype(np.uint8)[None], "HSV").convert("RGB")
  palette[1:11], palette[IGNORED] = np.asarray(colors)[0], 255
  return palette.ravel().tolist()
