"""Finds COCO's annotation files in an input, and the places of the images they list."""

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import IO, NamedTuple

from mnv2_hpu.data_preparation.annotations.formats import zip_archive
from mnv2_hpu.data_preparation.input_files import InputFolder
from mnv2_hpu.errors import UserError, shorten

LAYOUT = (
  "expected are annotations/instances_train2017.json and instances_val2017.json with "
  "the folders train2017 and val2017, or COCO's zip files of them, or one JSON file "
  "with a folder of images"
)
_PREFIX, _EXPORT = "instances_", "_annotations.coco.json"
_SPLIT = {
  "train": re.compile(r"(?<![a-z])train(ing)?(?![a-z])"),
  "validation": re.compile(r"(?<![a-z])val(id(ation)?)?(?![a-z])"),
  "test": re.compile(r"(?<![a-z])test(ing)?(?![a-z])"),
}
_FOLDERS = {  # that images of a split may lie in
  "train": ("train", "training"),
  "validation": ("val", "valid", "validation", "test"),
}


class AnnotationFile(NamedTuple):
  """An annotation file of an input.

  Attributes:
    folder: The input.
    path: Its path in the input, or in the archive.
    archive: Zip file of the input that holds it; empty where it is a file.
  """

  folder: InputFolder
  path: str
  archive: str = ""

  @property
  def name(self) -> str:
    """Its name in messages."""
    path = self.folder.root / (self.archive or self.path)
    return f"{self.path} in {path}" if self.archive else f"{path}"

  def open(self) -> AbstractContextManager[IO[bytes]]:
    """Opens it for reading.

    Raises:
      UserError: It cannot be read.
    """
    if self.archive:
      return zip_archive.opened(self.folder.root / self.archive, self.path)
    return _opened(self.name)

  def places(self, split: str) -> tuple[list[str], list[str]]:
    """Returns the folders and the zip files that its images may lie in."""
    stem = os.path.basename(self.path).removesuffix(".json").removeprefix(_PREFIX)
    names = [stem, *_FOLDERS[split]]
    own = "" if self.archive else os.path.dirname(self.path)
    inner = [os.path.join("images", name) for name in names]
    return [*names, *inner, own, "images", ""], [f"{name}.zip" for name in names]


def find(folder: InputFolder) -> dict[str, AnnotationFile]:
  """Returns the annotation file of each split; of train alone where there is only one.

  Raises:
    UserError: There is none, or which is whose is not clear.
  """
  found = _candidates(folder)
  by_split: dict[str, list[AnnotationFile]] = {}
  for file in found:
    by_split.setdefault(_split_of(file), []).append(file)
  if len(found) == 1:
    return {"train": found[0]}
  tests = by_split.pop("test", [])
  if "validation" not in by_split and tests:
    by_split["validation"] = tests
  else:
    for file in tests:
      folder.skip(file.path, "of a test split; there is one for validation")
  for split, files in by_split.items():
    if not split or len(files) > 1:
      names = shorten([repr(file.path) for file in files])
      taken = f"which of them is of {split}" if split else "of which split they are"
      raise UserError(
        f"{folder.root} has the annotation files {names}: {taken} is not clear. Name "
        "them instances_train.json and instances_val.json, and move others away."
      )
  if "train" not in by_split:
    raise UserError(
      f"{folder.root} has no annotation file to train on: "
      f"{shorten([repr(file.path) for file in found]) or 'none at all'}; {LAYOUT}."
    )
  return {split: by_split[split][0] for split in sorted(by_split)}


def _candidates(folder: InputFolder) -> list[AnnotationFile]:
  """Returns the annotation files, those of the most particular names alone."""
  found = []
  for place in ["", *folder.folders()]:
    for name in folder.files(place):
      path = os.path.join(place, name)
      if name.endswith(".json"):
        found.append(AnnotationFile(folder, path))
      elif name.startswith("annotations") and name.endswith(".zip") and not place:
        found += [
          AnnotationFile(folder, member.name, name)
          for member in zip_archive.members(folder.root / name)
          if member.name.endswith(".json") and not member.problem
        ]
  base = [os.path.basename(file.path) for file in found]
  for particular in (str.startswith, _PREFIX), (str.__eq__, _EXPORT):
    matches, text = particular
    if any(matches(name, text) for name in base):
      return [f for f, name in zip(found, base, strict=True) if matches(name, text)]
  return found


def _split_of(file: AnnotationFile) -> str:
  """Returns the split that a file's name, or else its folder's, says; or nothing."""
  folder, name = os.path.split(file.path.lower())
  for text in (name, os.path.basename(folder)):
    for split, pattern in _SPLIT.items():
      if pattern.search(text):
        return split
  return ""


@contextlib.contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
  if not os.path.isfile(path):  # a pipe would be waited for
    raise UserError(f"{path} is no file, or a link that leads to none.")
  try:
    with open(path, "rb") as file:
      yield file
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}.") from error
