"""Source `image_folder`: images sorted into one folder per class.

Either

    input_dir/<class>/…            a stratified fraction of each class is held out

or, where the images come split already,

    input_dir/train/<class>/…
    input_dir/validation/<class>/…    (or `val`, `test`, `Testing`, `val_set` …)

Labels are the positions of the class names in sorted order, from 0, without a
background class. Images may lie in folders below their class's; links are followed.
What systems leave behind, such as thumbnails, is ignored (see `input_files`).
"""

import os
import re
from collections.abc import Mapping, Sequence

from mnv2_hpu.data_preparation import input_files, listing, shards
from mnv2_hpu.data_preparation.listing import (
  Checksum,
  Listing,
  SourceImage,
  SourceOptions,
)
from mnv2_hpu.errors import UserError

NAME = "image_folder"
_LAYOUT = "expected is <input_dir>/<class>/<image>, one folder for each class"
_SPLIT_NAMES = {
  split: re.compile(
    rf"({names})([-_ ]?(set|data|images|split))?[-_ ]?\d*", re.IGNORECASE
  )
  for split, names in {
    "train": "train|training",
    "validation": "validation|valid|val|test|testing|evaluation|eval|dev",
  }.items()
}


def list_image_folder(options: SourceOptions) -> Listing:
  """Lists the images of a folder; opens none of them.

  Args:
    options: `input_dir` has one of the two layouts above.

  Raises:
    UserError: The folder is missing, unreadable or empty, its layout is not clear, a
      class has no image, or the validation split has a class that the training split
      lacks.
  """
  listing.check_fraction(options.validation_fraction)
  folder = input_files.InputFolder(options.input_dir, _LAYOUT)
  given = _given_splits(folder)
  classes = {split: _class_names(folder, name) for split, name in given.items()}
  for name in classes.get("validation", ()):
    if name not in classes["train"]:
      raise UserError(
        f"{given['validation']} has the class {name!r}, which {given['train']} lacks. "
        "Every class needs images to train on."
      )
  checksum = Checksum()
  images = _list_classes(folder, given, classes, checksum, options)
  return Listing(
    source=NAME,
    label_names=classes["train"],
    splits={split: listed for split, listed in images.items() if listed},
    read=input_files.InputReader(options.input_dir),
    serialize=shards.serialize,
    validation_fraction=(
      None if "validation" in given else options.validation_fraction
    ),
    checksum=checksum.hexdigest(),
    skipped=folder.skipped,
    warnings=folder.warnings(),
  )


def split_of(name: str) -> str:
  """Returns the split that a folder's name stands for, or an empty string.

  >>> [split_of(name) for name in ("Training", "test1", "val_set", "tested")]
  ['train', 'validation', 'validation', '']
  """
  return next((s for s, names in _SPLIT_NAMES.items() if names.fullmatch(name)), "")


def _given_splits(folder: input_files.InputFolder) -> dict[str, str]:
  """Returns the folder of each split; of train alone, empty, for the root itself."""
  names = folder.folders()
  if not names:
    raise UserError(f"{folder.root} has no folders; {_LAYOUT}.")
  named = {name: split_of(name) for name in names if split_of(name)}
  # A class may be called train: it holds images, a split folders.
  given = {name: split for name, split in named.items() if folder.folders(name)}
  if "train" not in given.values():
    if len(named) == len(names):
      raise UserError(
        f"{folder.root} has only {_quoted(names)}, which are names of splits, and no "
        f"split to train on with a folder for each class; expected are "
        "<input_dir>/train/<class>/<image> and <input_dir>/validation/<class>/<image>."
      )
    return {"train": ""}
  for split in dict.fromkeys(given.values()):
    same = [name for name in given if given[name] == split]
    if len(same) > 1:
      raise UserError(
        f"{folder.root} has {' and '.join(same)}: which of them to take for {split} is "
        "not clear. Move the others away."
      )
  for name in [*names, *folder.files()]:
    if name not in given:
      folder.skip(name, f"beside the splits {' and '.join(given)}, not in one of them")
  return {split: name for name, split in given.items()}


def _class_names(folder: input_files.InputFolder, split_folder: str) -> list[str]:
  """Returns the sorted names of the class folders in the folder of a split.

  Raises:
    UserError: There are none, or what they hold shows that they are no classes.
  """
  path = folder.root / split_folder
  names = folder.folders(split_folder)
  if not names:
    raise UserError(f"{path} has no folders; {_LAYOUT}.")
  for name in folder.files(split_folder):
    folder.skip(os.path.join(split_folder, name), "not in the folder of a class")
  inner = {name: folder.folders(os.path.join(split_folder, name)) for name in names}
  holds_files = any(folder.files(os.path.join(split_folder, name)) for name in names)
  first = inner[names[0]]
  if holds_files or not first:
    return names
  if len(names) == 1:
    raise UserError(
      f"{path} holds one folder, {names[0]!r}, which holds only the folders "
      f"{_quoted(first)}. If these are the classes, give {path / names[0]} in place of "
      f"{path}; {_LAYOUT}."
    )
  if len(first) > 1 and all(inner[name] == first for name in names):
    raise UserError(
      f"all folders in {path} ({_quoted(names)}) hold the same folders "
      f"{_quoted(first)} and no image: they seem to be splits, not classes. Call them "
      "train and validation, and move others away."
    )
  return names


def _quoted(names: Sequence[str]) -> str:
  shown = ", ".join(map(repr, names[:5]))
  return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def _list_classes(
  folder: input_files.InputFolder,
  given: Mapping[str, str],
  classes: Mapping[str, Sequence[str]],
  checksum: Checksum,
  options: SourceOptions,
) -> dict[str, list[SourceImage]]:
  """Returns the images of each split; adds all of them to the input's checksum."""
  images: dict[str, list[SourceImage]] = {"train": [], "validation": []}
  empty = []
  for split, split_folder in given.items():
    for name in classes[split]:
      label = classes["train"].index(name)
      path = os.path.join(split_folder, name)
      files = folder.files_below(path)
      if not files:
        empty.append(path)
      for file, size in files:
        checksum.add(file, size)
      by_split = {split: [SourceImage(file, label) for file, _ in files]}
      if "validation" not in given:
        fraction, seed = options.validation_fraction, options.seed
        train, held_out = listing.stratified({name: by_split[split]}, fraction, seed)
        by_split = {"train": train[name], "validation": held_out[name]}
      for target, listed in by_split.items():
        images[target] += listed
  if empty:
    raise UserError(
      f"no images in {_quoted(empty)}. Add some, or remove the folder: each folder is "
      "a class."
    )
  return images
