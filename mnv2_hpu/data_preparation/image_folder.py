"""Source `image_folder`: images sorted into one folder per class.

Either

    input_dir/<class>/…            a stratified share of each class is held out

or, where the images come divided already,

    input_dir/train/<class>/…
    input_dir/validation/<class>/…    (or `val`, `valid`, `test`)

Labels are the positions of the class names in sorted order, from 0, without a
background class. Images may lie in folders below their class's. Hidden files, and the
indexes that desktop systems leave behind, are ignored.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mnv2_hpu.data_preparation import examples, input_files, splits
from mnv2_hpu.data_preparation.listing import (
  Checksum,
  Listing,
  SourceImage,
  SourceOptions,
)
from mnv2_hpu.errors import UserError

NAME = "image_folder"
_VALIDATION_NAMES = ("validation", "val", "valid", "test")
_LAYOUT = "expected is <input_dir>/<class>/<image>, one folder for each class"


def list_image_folder(options: SourceOptions) -> Listing:
  """Lists the images of a folder; opens none of them.

  Args:
    options: `input_dir` is laid out in one of the two ways above.

  Raises:
    UserError: the folder is missing, unreadable or empty, a class has no image, or
      the validation split has a class that the training split lacks.
  """
  splits.check_fraction(options.validation_fraction)
  root = Path(options.input_dir)
  given = _given_splits(root)
  classes = {split: _class_names(root, folder) for split, folder in given.items()}
  label_names = classes["train"]
  _check_known(classes, given)
  held_out = None if "validation" in given else options.validation_fraction
  images: dict[str, list[SourceImage]] = {"train": [], "validation": []}
  checksum = _list_classes(root, given, label_names, images, options)
  return Listing(
    source=NAME,
    label_names=label_names,
    splits={split: listed for split, listed in images.items() if listed},
    read=input_files.InputReader(str(root)),
    serialize=examples.serialize,
    validation_fraction=held_out,
    checksum=checksum,
    skipped=[
      {"file": name, "reason": "not in the folder of a class"}
      for folder in given.values()
      for name in _loose_files(root, folder)
    ],
  )


def _given_splits(root: Path) -> dict[str, str]:
  """Returns folder (relative, empty for the root itself) by split."""
  folders = [entry.name for entry in input_files.scan(root, _LAYOUT) if entry.is_dir()]
  if not folders:
    raise UserError(f"{root} has no folders; {_LAYOUT}.")
  validation = [name for name in _VALIDATION_NAMES if name in folders]
  if "train" not in folders or len(folders) != 1 + len(validation):
    return {"train": ""}
  if len(validation) > 1:
    raise UserError(
      f"{root} has {' and '.join(validation)} beside train: which of them to evaluate "
      "on is not clear. Move the others away."
    )
  given = {"train": "train"}
  if validation:
    given["validation"] = validation[0]
  return given


def _loose_files(root: Path, folder: str) -> Iterator[str]:
  for entry in input_files.scan(root / folder, _LAYOUT):
    if not entry.is_dir():
      yield os.path.join(folder, entry.name)


def _class_names(root: Path, folder: str) -> list[str]:
  """Returns the sorted names of the folders in a folder."""
  names = [
    entry.name for entry in input_files.scan(root / folder, _LAYOUT) if entry.is_dir()
  ]
  if not names:
    raise UserError(f"{root / folder} has no folders; {_LAYOUT}.")
  return names


def _check_known(
  classes: Mapping[str, Sequence[str]], given: Mapping[str, str]
) -> None:
  for split, names in classes.items():
    unknown = sorted(set(names) - set(classes["train"]))
    if unknown:
      raise UserError(
        f"{given[split]} has the class {unknown[0]!r}, which train lacks. Every class "
        "needs images to train on."
      )


def _list_classes(
  root: Path,
  given: Mapping[str, str],
  label_names: Sequence[str],
  images: Mapping[str, list[SourceImage]],
  options: SourceOptions,
) -> str:
  """Adds every image to those of its split; returns the input's checksum."""
  checksum = Checksum()
  empty = []
  for split, folder in given.items():
    for label, name in enumerate(label_names):
      path = os.path.join(folder, name)
      if not (root / path).is_dir():
        continue  # a validation split need not have every class
      files = sorted(input_files.files_below(root, path, _LAYOUT))
      for file, size in files:
        checksum.add(file, size)
      paths = {name: [file for file, _ in files]}
      by_split = {split: paths}
      if "validation" not in given:
        fraction, seed = options.validation_fraction, options.seed
        train, validation = splits.stratified(paths, fraction, seed)
        by_split = {"train": train, "validation": validation}
      for target, chosen in by_split.items():
        images[target] += [SourceImage(file, label) for file in chosen[name]]
      if not files:
        empty.append(path)
  if empty:
    raise UserError(
      f"no images in {', '.join(repr(name) for name in empty[:10])}. Add some, or "
      "remove the folder: each folder is a class."
    )
  return checksum.hexdigest()
