"""Source `imagenet`: ILSVRC 2012, from the archives people download, or extracted.

    input_dir/ILSVRC2012_img_train.tar    or    input_dir/train/<synset>/…
    input_dir/ILSVRC2012_img_val.tar      or    input_dir/val/…    (or `validation`)
    a list of the validation synsets: see `imagenet_labels.py`; not needed where the
    validation images lie in folders named by synset

Archives are read in place, never unpacked. Labels are those of slim, of the TPU models
and of Model Garden: 0 is the background, 1 to 1000 the synsets in sorted order.
"""

import os
import tarfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

from mnv2_hpu.data_preparation import imagenet_labels, shards, tar_archive
from mnv2_hpu.data_preparation.input_files import InputFolder, InputReader
from mnv2_hpu.data_preparation.listing import (
  Checksum,
  Listing,
  SourceImage,
  SourceOptions,
)
from mnv2_hpu.errors import UserError

NAME = "imagenet"
NUM_CLASSES = 1_000
NUM_EXAMPLES = {"train": 1_281_167, "validation": 50_000}
BACKGROUND = "background"

_TRAIN_TAR, _VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_TRAIN_FOLDER, _VALIDATION_FOLDERS = "train", ("val", "validation")
_NUM_SHARDS = {"train": 1024, "validation": 128}
_LAYOUT = (
  f"expected are {_TRAIN_TAR} and {_VALIDATION_TAR}, or the folders train/<synset> "
  "and val"
)


class _File(NamedTuple):
  """An image found; or, with a `problem`, what was found in place of one."""

  path: str
  size: int
  archive: str = ""
  offset: int = 0
  problem: str = ""


def list_imagenet(options: SourceOptions) -> Listing:
  """Lists the images; reads headers of archives, and no image.

  Raises:
    UserError: A split or the list of validation synsets is missing, an archive is cut
      off or corrupt, or the splits differ in their synsets.
  """
  folder = InputFolder(options.input_dir, _LAYOUT)
  present = {entry.name for entry in folder.entries()}
  train = _train_classes(folder, present)
  synsets = sorted(name for name in train if name)
  labels = {synset: label for label, synset in enumerate(synsets, start=1)}
  checksum = Checksum()
  found = {
    "train": ((synset, file) for synset in sorted(train) for file in train[synset]),
    "validation": _validation_files(folder, present, synsets),
  }
  images: dict[str, list[SourceImage]] = {split: [] for split in found}
  for split, files in found.items():
    for synset, file in files:
      checksum.add(file.path, file.size)
      if file.problem:
        folder.skip(file.path, file.problem)
      else:
        location = file.archive, file.offset, file.size
        images[split].append(SourceImage(file.path, labels[synset], *location))
    if not images[split]:
      raise UserError(f"{folder.root} has no image to use for {split}; {_LAYOUT}.")
  return Listing(
    source=NAME,
    label_names=[BACKGROUND, *synsets],
    splits=images,
    read=InputReader(options.input_dir),
    serialize=shards.serialize_imagenet,
    validation_fraction=None,
    checksum=checksum.hexdigest(),
    skipped=folder.skipped,
    warnings=folder.warnings(),
    jpeg_only=True,
    num_shards=_NUM_SHARDS,
  )


def _train_classes(
  folder: InputFolder, present: Collection[str]
) -> dict[str, Iterable[_File]]:
  """Returns the files of each synset, and of none under an empty name."""
  if _TRAIN_TAR in present:
    classes = _classes_of_tar(folder.root)
  elif _TRAIN_FOLDER in present:
    classes = _classes_of_folder(folder, _TRAIN_FOLDER)
  else:
    raise UserError(f"{folder.root} has neither {_TRAIN_TAR} nor train; {_LAYOUT}.")
  if not any(classes):
    raise UserError(f"{folder.root} has no class to train on; {_LAYOUT}.")
  return classes


def _classes_of_tar(root: Path) -> dict[str, Iterable[_File]]:
  """Finds the archive of each synset within that of the split."""
  classes: dict[str, Iterable[_File]] = {}
  unexpected = []
  for member in _members(root / _TRAIN_TAR):
    synset = member.name.removesuffix(".tar")
    problem = tar_archive.find_problem(member)
    if not problem and not imagenet_labels.is_synset(synset):
      problem = "not the archive of a synset"
    if problem:
      unexpected.append(_File(member.name, member.size, problem=problem))
    else:
      byte_range = member.offset_data, member.offset_data + member.size
      classes[synset] = _files_of_tar(root, _TRAIN_TAR, synset, byte_range)
  return {**classes, "": unexpected}


def _classes_of_folder(folder: InputFolder, split: str) -> dict[str, Iterable[_File]]:
  """Finds the folder of each synset."""
  names = folder.folders(split)
  classes: dict[str, Iterable[_File]] = {
    name: _files_of_folder(folder, os.path.join(split, name))
    for name in names
    if imagenet_labels.is_synset(name)
  }
  unexpected = [
    _File(os.path.join(split, entry.name), 0, problem="not the folder of a synset")
    for entry in folder.entries(split)
    if entry.name not in classes
  ]
  return {**classes, "": unexpected}


def _files_of_tar(
  root: Path,
  archive: str,
  folder: str = "",
  byte_range: tuple[int, int | None] = (0, None),
) -> Iterator[_File]:
  for member in _members(root / archive, folder, *byte_range):
    problem = tar_archive.find_problem(member)
    if problem:
      path = f"{folder}: {member.name}" if folder else member.name
      yield _File(path, member.size, problem=problem)
    elif not member.isdir():
      path = os.path.join(folder, member.name.removeprefix("./"))
      yield _File(path, member.size, archive, member.offset_data)


def _files_of_folder(folder: InputFolder, path: str) -> Iterator[_File]:
  for file, size in folder.files_below(path):
    yield _File(file, size)


def _members(
  path: Path, inner: str = "", start: int = 0, end: int | None = None
) -> Iterator[tarfile.TarInfo]:
  try:
    with path.open("rb", buffering=0) as file:
      yield from tar_archive.members(file, start, end)
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}.") from error
  except tar_archive.TarError as error:
    where = f"{inner}.tar in {path}" if inner else f"{path}"
    raise UserError(
      f"{where} is {error}. Download {path.name} again: its size and checksum are on "
      "the page that it comes from."
    ) from error


def _validation_files(
  folder: InputFolder, present: Collection[str], synsets: Sequence[str]
) -> Iterator[tuple[str, _File]]:
  """Yields (synset, file) of the validation split."""
  root = folder.root
  if _VALIDATION_TAR in present:
    yield from _labelled(root, _files_of_tar(root, _VALIDATION_TAR), synsets)
    return
  split = next((name for name in _VALIDATION_FOLDERS if name in present), None)
  if split is None:
    raise UserError(f"{root} has neither {_VALIDATION_TAR} nor val; {_LAYOUT}.")
  classes = _classes_of_folder(folder, split)
  if not any(classes):
    yield from _labelled(root, _files_of_folder(folder, split), synsets)
    return
  _check_synsets(synsets, set(classes) - {""}, f"the folder {split}")
  for synset in sorted(classes):
    for file in classes[synset]:
      yield synset, file


def _labelled(
  root: Path, files: Iterable[_File], synsets: Sequence[str]
) -> Iterator[tuple[str, _File]]:
  """Finds the synset of each file of a flat split in the list of them."""
  remaining = imagenet_labels.validation_synsets(root)
  _check_synsets(synsets, set(remaining.values()), "the list of validation synsets")
  for file in files:
    name = os.path.basename(file.path).partition(".")[0]
    synset = "" if file.problem else remaining.pop(name, "")
    if not (synset or file.problem):
      problem = "the list of validation synsets does not know it, or had it before"
      file = file._replace(problem=problem)
    yield synset, file
  for name, synset in remaining.items():
    yield synset, _File(f"{name}.JPEG", 0, problem="listed, but not in the input")


def _check_synsets(train: Sequence[str], other: AbstractSet[str], what: str) -> None:
  for lacking, missing in (
    ("the training split", sorted(other - set(train))),
    (what, sorted(set(train) - other)),
  ):
    if missing:
      more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
      raise UserError(
        f"{lacking} lacks the synset {', '.join(missing[:3])}{more}, so the labels of "
        "all synsets after it would be others than everybody's. Complete the input."
      )
