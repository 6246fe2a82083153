"""Which synset each image of ImageNet's validation split has: the lists people have."""

import csv
import gzip
import io
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mnv2_hpu.data_preparation import tar_archive
from mnv2_hpu.errors import UserError

_NAME = "ILSVRC2012_val_{:08d}"
_SYNSET = re.compile(r"n\d{8}")
_SYNSET_LABELS = "imagenet_2012_validation_synset_labels.txt"
_KAGGLE = "LOC_val_solution.csv"
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_META = "meta.mat"
_DEVKIT = "ILSVRC2012_devkit_t12"
_DEVKIT_TAR = f"{_DEVKIT}.tar.gz"
_MAT_VERSION = b"\x00\x01IM"
_MAT_HEADER_SIZE = 128  # bytes
_MAT_TAG = struct.Struct("<II")  # type and bytes of an element
_MAT_COMPRESSED = 15
_MAX_SIZE = 64 << 20  # bytes of a list, inflated; each of them has less than 16 MiB

# Of files, gzip, tar, text and MAT, where they are corrupt or hostile.
_READ_ERRORS = (
  ArithmeticError,
  AttributeError,
  EOFError,
  LookupError,
  MemoryError,
  OSError,
  TypeError,
  ValueError,
  zlib.error,
)


def is_synset(name: str) -> bool:
  """Returns whether a name is a synset's, such as `n01440764`."""
  return _SYNSET.fullmatch(name) is not None


def validation_synsets(input_dir: Path) -> dict[str, str]:
  """Returns synset by image name (`ILSVRC2012_val_00000001`, without suffix).

  Read from the first of these that there is:

  - `imagenet_2012_validation_synset_labels.txt` (slim): a synset a line, in the order
    of the images' names;
  - `LOC_val_solution.csv` (Kaggle): name, then synset and boxes;
  - `ILSVRC2012_devkit_t12.tar.gz`, or its folder, or the folder's content: class
    numbers in `ILSVRC2012_validation_ground_truth.txt`, which are not in the order of
    the synsets; `meta.mat` says which is which.

  Raises:
    UserError: there is none, or one that cannot be understood.
  """
  for name, read in _READERS.items():
    path = input_dir / name
    if path.exists():
      try:
        return _checked(path, read(path))
      except _READ_ERRORS as error:
        if isinstance(error, UserError):
          raise
        raise UserError(f"{path} cannot be read: {error}.") from error
  raise UserError(
    f"{input_dir} has none of {', '.join(_READERS)}, so the classes of the validation "
    f"images are not known. Put {_SYNSET_LABELS} (of tensorflow/models' slim) there, "
    "or another of them."
  )


def _checked(path: Path, synsets: Mapping[str, str]) -> dict[str, str]:
  for name, synset in synsets.items():
    if not is_synset(synset):
      raise UserError(
        f"{path} gives {name} the class {synset!r}, which is no synset: allowed are "
        "names such as n01440764. Download the file again."
      )
  if not synsets:
    raise UserError(f"{path} is empty. Download it again.")
  return dict(synsets)


def _numbered(synsets: list[str]) -> dict[str, str]:
  return {_NAME.format(i): synset for i, synset in enumerate(synsets, start=1)}


def _read(path: Path) -> bytes:
  """Returns the content of a file, inflated if it is compressed by gzip."""
  with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
    content = file.read(_MAX_SIZE + 1)
  if len(content) > _MAX_SIZE:
    raise ValueError(f"it has more than {_MAX_SIZE >> 20} MiB")
  return content


def _read_synset_labels(path: Path) -> dict[str, str]:
  return _numbered(_read(path).decode().split())


def _read_kaggle(path: Path) -> dict[str, str]:
  rows = csv.DictReader(io.StringIO(_read(path).decode(), newline=""), restval="")
  missing = {"ImageId", "PredictionString"} - set(rows.fieldnames or ())
  if missing:
    raise ValueError(f"it has no column {' or '.join(sorted(missing))}")
  return {row["ImageId"]: row["PredictionString"].split(" ", 1)[0] for row in rows}


def _read_ground_truth(path: Path) -> dict[str, str]:
  return _from_devkit(_read(path), _read(path.with_name(_META)))


def _read_devkit_tar(path: Path) -> dict[str, str]:
  content = _read(path)
  files = {
    member.name: content[member.offset_data :][: member.size]
    for member in tar_archive.members(io.BytesIO(content))
    if member.isreg()
  }
  truth, meta = (files[f"{_DEVKIT}/data/{name}"] for name in (_GROUND_TRUTH, _META))
  return _from_devkit(truth, meta)


def _from_devkit(truth: bytes, meta: bytes) -> dict[str, str]:
  numbers = [int(number) for number in truth.split()]
  synset_of = dict(_numbers_and_synsets(meta))
  if unknown := sorted(set(numbers) - set(synset_of)):
    raise ValueError(f"class {unknown[0]} is not one of those in {_META}")
  return _numbered([synset_of[number] for number in numbers])


def _numbers_and_synsets(meta: bytes) -> Iterator[tuple[int, str]]:
  """Yields (ILSVRC2012_ID, WNID) of the leaves, which are the classes."""
  from scipy.io import matlab

  _check_inflated_size(meta)
  try:
    content: Any = matlab.loadmat(
      io.BytesIO(meta), squeeze_me=True, struct_as_record=False
    )
  except matlab.MatReadError as error:
    raise ValueError(f"{_META}: {error}") from error
  for synset in content["synsets"]:
    if synset.num_children == 0:
      yield int(synset.ILSVRC2012_ID), str(synset.WNID)


def _check_inflated_size(meta: bytes) -> None:
  """Checks that the compressed elements of a MAT file inflate to `_MAX_SIZE` at most.

  Raises:
    ValueError: They are larger; or it is no MAT file of version 5, little endian.
  """
  if meta[124:128] != _MAT_VERSION:
    raise ValueError(f"{_META} is no MAT file of version 5")
  position, allowance = _MAT_HEADER_SIZE, _MAX_SIZE
  while position + _MAT_TAG.size <= len(meta):
    kind, size = _MAT_TAG.unpack_from(meta, position)
    position += _MAT_TAG.size
    if kind == _MAT_COMPRESSED:
      inflate = zlib.decompressobj()
      element = inflate.decompress(meta[position : position + size], allowance + 1)
      allowance -= len(element)
    if allowance < 0:
      raise ValueError(f"{_META} has more than {_MAX_SIZE >> 20} MiB")
    position += size


_READERS: dict[str, Callable[[Path], dict[str, str]]] = {
  _SYNSET_LABELS: _read_synset_labels,
  _KAGGLE: _read_kaggle,
  _DEVKIT_TAR: _read_devkit_tar,
  os.path.join(_DEVKIT, "data", _GROUND_TRUTH): _read_ground_truth,
  os.path.join("data", _GROUND_TRUTH): _read_ground_truth,
  _GROUND_TRUTH: _read_ground_truth,
}
