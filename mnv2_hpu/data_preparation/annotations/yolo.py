"""Source `yolo`: a folder of images and a folder of text files, a line for each box.

    input_dir/images/[train/, val/]a.jpg    (or input_dir/train/images/a.jpg …)
    input_dir/labels/[train/, val/]a.txt    class, center x, center y, width, height
    input_dir/data.yaml                     with `names`; or classes.txt

Coordinates are fractions of the image; classes count from 0 and become labels from 1. A
line with more points is the outline of an object, of which the box is taken. An image
without a file has no objects. Where no split is given, a fraction is held out.
"""

import math
import os
import reprlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mnv2_hpu.data_preparation import listing
from mnv2_hpu.data_preparation.annotations import box_listing, paired_folders
from mnv2_hpu.data_preparation.annotations.paired_folders import File, Folders
from mnv2_hpu.data_preparation.input_files import InputFolder, read_file
from mnv2_hpu.data_preparation.listing import Listing, SourceOptions
from mnv2_hpu.errors import UserError

NAME = "yolo"
BAD_LINE = "lines are not a class and four numbers, or an outline: dropped"
_NAME_FILES = ("data.yaml", "data.yml", "dataset.yaml")
_MAX_YAML_SIZE = 1 << 20  # bytes
_MIN_OUTLINE = 3  # points
_LAYOUT = (
  "expected are the folders images and labels, or these in train and in val, with "
  "files of the same names, and data.yaml or classes.txt"
)
_NONE = np.zeros((0, 5))


def list_yolo(options: SourceOptions) -> Listing:
  """Lists the images and reads their boxes; opens no image.

  Raises:
    UserError: A folder or the names of the classes are missing.
  """
  listing.check_fraction(options.validation_fraction)
  folder = InputFolder(options.input_dir, _LAYOUT)
  found = paired_folders.find(folder, ("labels", "label"), _LAYOUT)
  names = _class_names(folder)
  dropped: box_listing.Dropped = {}
  splits = {
    split: list(_annotated(folder, place, dropped)) for split, place in found.items()
  }
  return box_listing.make_listing(NAME, folder, names, splits, options, dropped)


def _annotated(
  folder: InputFolder, place: Folders, dropped: box_listing.Dropped
) -> Iterator[box_listing.AnnotatedImage]:
  images = paired_folders.files_by_stem(folder, place.images)
  files = paired_folders.files_by_stem(folder, place.annotations, ".txt")
  for stem, image in images.items():
    try:
      rows = _rows(folder, files[stem], dropped) if stem in files else _NONE
    except (OSError, UnicodeDecodeError) as error:
      folder.skip(image.path, f"{files[stem].path} cannot be read as text: {error}")
      continue
    center, size = rows[:, [2, 1]], rows[:, [4, 3]]
    yield box_listing.AnnotatedImage(
      path=image.path,
      num_bytes=image.size,
      classes=rows[:, 0].astype(np.int64),
      corners=np.concatenate([center - size / 2, center + size / 2], axis=1),
      difficult=np.zeros(len(rows), np.bool_),
      are_fractions=True,
    )
  for stem in sorted(set(files) - {*images, "classes"}):
    folder.skip(files[stem].path, "boxes without image")


def _rows(
  folder: InputFolder, file: File, dropped: box_listing.Dropped
) -> npt.NDArray[np.float64]:
  """Returns class, center x and y, width and height of each box of a file, `[n, 5]`.

  Raises:
    OSError: It cannot be read.
    UnicodeDecodeError: It is no text.
  """
  lines = read_file(str(folder.root / file.path)).decode("utf-8-sig").splitlines()
  rows = []
  for line in filter(str.strip, lines):
    row = _row(line)
    if row is None:
      count, first = dropped.get(BAD_LINE, (0, file.path))
      dropped[BAD_LINE] = count + 1, first
    else:
      rows.append(row)
  return np.array(rows, np.float64).reshape(-1, 5)


def _row(line: str) -> tuple[float, ...] | None:
  """Returns the five numbers of a line; of an outline, those of its box."""
  try:
    number, *values = map(float, line.split())
  except ValueError:
    return None
  if (
    not number.is_integer()
    or abs(number) > 2**31
    or not all(map(math.isfinite, values))
  ):
    return None
  if len(values) == 4:
    return number, *values
  if len(values) % 2 or len(values) < 2 * _MIN_OUTLINE:
    return None
  x, y = values[::2], values[1::2]
  size = max(x) - min(x), max(y) - min(y)
  return number, (min(x) + max(x)) / 2, (min(y) + max(y)) / 2, *size


def _class_names(folder: InputFolder) -> dict[int, str]:
  """Returns the name of each class.

  Raises:
    UserError: No file names them, or one that cannot be understood.
  """
  for name in _NAME_FILES:
    path = folder.root / name
    if os.path.lexists(path):
      return _names_in_yaml(str(path))
  names = paired_folders.class_names(folder)
  if names is None:
    raise UserError(
      f"{folder.root} has neither {_NAME_FILES[0]} nor classes.txt. Write the latter: "
      "the name of a class a line, the first for the class 0."
    )
  return dict(enumerate(names))


def _names_in_yaml(path: str) -> dict[int, str]:
  import yaml

  try:
    content: Any = yaml.safe_load(read_file(path)[:_MAX_YAML_SIZE])
  except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
    raise UserError(f"{path} cannot be read as YAML: {error}.") from error
  names = content.get("names") if isinstance(content, dict) else None
  if isinstance(names, list):
    names = dict(enumerate(names))
  plain = (str, int, float)
  shown = reprlib.repr(names)  # aliases of YAML may expand without end
  if (
    not isinstance(names, dict)
    or not names
    or not all(type(key) is int and key >= 0 for key in names)
    or not all(isinstance(name, plain) and str(name).strip() for name in names.values())
  ):
    raise UserError(
      f"{path} must have `names`, a list of the classes' names or a map from numbers "
      f"to names; received {shown}."
    )
  return {key: str(name) for key, name in names.items()}
