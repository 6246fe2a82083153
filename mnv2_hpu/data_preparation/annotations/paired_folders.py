"""Images and the files of the same names that annotate them, in folders beside theirs.

input_dir/images/train/…  and  input_dir/masks/train/…
input_dir/train/images/…  and  input_dir/train/masks/…
input_dir/images/…        and  input_dir/masks/…         of which some are held out
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mnv2_hpu.data_preparation import image_folder
from mnv2_hpu.data_preparation.input_files import InputFolder, read_file
from mnv2_hpu.errors import UserError, shorten

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "JPEGImages")
_NAME_FILES = ("classes.txt", "labels.txt")
_MAX_NAMES_SIZE = 1 << 20  # bytes


class File(NamedTuple):
  """A file of the input.

  Attributes:
    path: Its path in the input.
    size: Its bytes.
  """

  path: str
  size: int


class Folders(NamedTuple):
  """Where the images and the annotations of a split lie.

  Attributes:
    images: Folder of the images, in the input.
    annotations: Folder of the annotations, in the input.
  """

  images: str
  annotations: str


def find(
  folder: InputFolder, annotation_folders: Sequence[str], layout: str
) -> dict[str, Folders]:
  """Returns the folders of each split; of train alone where there are no splits.

  Args:
    folder: The input.
    annotation_folders: Names that the folder of the annotations may have.
    layout: What is expected of the input, for messages.

  Raises:
    UserError: There are none, or which is whose is not clear.
  """
  here = _pair(folder, "", annotation_folders)
  if here and not _by_split(folder.folders(here.images)):
    return {"train": here}
  if here:
    inner = {
      name: Folders(
        os.path.join(here.images, name), os.path.join(here.annotations, name)
      )
      for name in folder.folders(here.images)
    }
  else:
    inner = {
      name: pair
      for name in folder.folders()
      if (pair := _pair(folder, name, annotation_folders))
    }
  splits = _one_of_each(folder, _by_split(list(inner)))
  if "train" not in splits:
    raise UserError(f"{folder.root} has no images to train on; {layout}.")
  return {split: inner[name] for split, name in splits.items()}


def _pair(
  folder: InputFolder, place: str, annotation_folders: Sequence[str]
) -> Folders | None:
  names = {name.lower(): name for name in folder.folders(place)}

  def first(candidates: Sequence[str]) -> str:
    return next((names[c.lower()] for c in candidates if c.lower() in names), "")

  images, annotations = first(IMAGE_FOLDERS), first(annotation_folders)
  if not images or not annotations:
    return None
  return Folders(os.path.join(place, images), os.path.join(place, annotations))


def _by_split(names: Sequence[str]) -> dict[str, list[str]]:
  by_split: dict[str, list[str]] = {}
  for name in names:
    if split := image_folder.split_of(name):
      by_split.setdefault(split, []).append(name)
  return by_split


def _one_of_each(
  folder: InputFolder, by_split: Mapping[str, list[str]]
) -> dict[str, str]:
  """Returns one folder for each split; a test split gives way to a validation split."""
  chosen = {}
  for split in sorted(by_split):
    names = by_split[split]
    others = [name for name in names if not name.lower().startswith("test")] or names
    if len(others) > 1:
      raise UserError(
        f"{folder.root} has {' and '.join(others)}: which of them to take for {split} "
        "is not clear. Move the others away."
      )
    chosen[split] = others[0]
    for name in set(names) - set(others):
      folder.skip(name, f"of a test split; {others[0]} is for validation")
  return chosen


def files_by_stem(folder: InputFolder, place: str, suffix: str = "") -> dict[str, File]:
  """Returns the files below a folder by their path there, without the suffix.

  Args:
    folder: The input.
    place: Folder in the input.
    suffix: Ending that the files must have, such as `.txt`; others are left out.

  Raises:
    UserError: The folder is missing, or two files differ in their suffix alone.
  """
  found: dict[str, File] = {}
  for path, size in folder.files_below(place):
    if not path.lower().endswith(suffix):
      continue
    stem = os.path.splitext(os.path.relpath(path, place))[0]
    if stem in found:
      raise UserError(
        f"{folder.root / path} and {found[stem].path} differ in their suffix alone: "
        "whose the annotations are is not clear. Move one of them away."
      )
    found[stem] = File(path, size)
  return found


def pairs(
  folder: InputFolder,
  images: Mapping[str, File],
  annotations: Mapping[str, File],
  what: str,
) -> Iterator[tuple[File, File]]:
  """Yields each image with its annotation; lists as skipped what has no counterpart.

  Args:
    folder: The input.
    images: Images by stem.
    annotations: Annotations by stem.
    what: What an annotation is called in messages.
  """
  for stem, image in images.items():
    if stem in annotations:
      yield image, annotations[stem]
    else:
      folder.skip(image.path, f"it has no {what}")
  for stem in sorted(set(annotations) - set(images)):
    folder.skip(annotations[stem].path, f"a {what} without image")


def class_names(folder: InputFolder) -> list[str] | None:
  """Returns the names in `classes.txt` or `labels.txt`, one a line; None without one.

  Raises:
    UserError: It cannot be read, is no text, or has a name twice or none.
  """
  for name in _NAME_FILES:
    path = folder.root / name
    if not os.path.lexists(path):
      continue
    try:
      data = read_file(str(path))
      names = [line.strip() for line in data[:_MAX_NAMES_SIZE].decode().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
      raise UserError(f"{path} cannot be read as text: {error}.") from error
    while names and not names[-1]:
      names.pop()
    repeated = [n for i, n in enumerate(names) if n in names[:i] or not n]
    if repeated or not names:
      raise UserError(
        f"{path} must name the classes, one a line, each once; received "
        f"{shorten([repr(n) for n in repeated]) or 'nothing'}."
      )
    return names
  return None
