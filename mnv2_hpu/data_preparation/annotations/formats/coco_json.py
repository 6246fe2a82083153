"""COCO's annotation files: images, categories, and the boxes in compact arrays."""

import array
import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from mnv2_hpu.data_preparation.annotations import boxes
from mnv2_hpu.data_preparation.annotations.formats import json_stream
from mnv2_hpu.errors import UserError

UNKNOWN_IMAGE = "boxes are of an image that is not listed: dropped"
UNKNOWN_CATEGORY = "boxes are of an unknown category: dropped"
REPEATED = "boxes are repeated, id and all: dropped"
SAME_ID = "boxes share their id with another box: kept"

_NO_BOX = (math.nan,) * 4


@dataclasses.dataclass(frozen=True)
class CocoImage:
  """One image of an annotation file.

  Attributes:
    id: Its id, a number or a text.
    name: Its `file_name`.
    size: Height and width that the file states; zeros where it does not.
  """

  id: int | str
  name: str
  size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class CocoFile:
  """What an annotation file holds.

  Attributes:
    images: Images, in the order of the file.
    categories: Name by category id.
    objects: Boxes in pixels, in the order of the images; `label` is a position in
      `sorted(categories)`.
    bounds: Image `i` has the objects from `bounds[i]` up to `bounds[i + 1]`.
    dropped: Number of boxes left out, by the reason.
    remarks: Number of boxes that people should know of, by kind.
  """

  images: list[CocoImage]
  categories: dict[int, str]
  objects: npt.NDArray[Any]
  bounds: npt.NDArray[np.int64]
  dropped: dict[str, int]
  remarks: dict[str, int]


def read(name: str, open_file: Callable[[], Any]) -> CocoFile:
  """Reads an annotation file, whose boxes need not fit their images.

  Args:
    name: Its name, for messages.
    open_file: Returns a context manager that opens it.

  Raises:
    UserError: It is no such file: not whole, no JSON, an entry without its parts or
      with parts of another type, no image, no category; or two images have one id, or
      one name.
  """
  try:
    with open_file() as file:
      return _Builder().read(file)
  except (json_stream.JsonError, _EntryError) as error:
    raise UserError(
      f"{name} {error}. Expected is COCO's format: an object with the lists images, "
      "annotations and categories (https://cocodataset.org/#format-data). Export or "
      "download it again."
    ) from error


class _EntryError(ValueError):
  """An entry of a list that is not as it should be."""


class _Builder:
  """Collects the entries of a file; ids may be used before they are listed."""

  def __init__(self) -> None:
    self._images: dict[Any, CocoImage] = {}
    self._names: dict[str, Any] = {}
    self._categories: dict[Any, str] = {}
    # Positions of the ids that boxes name, listed or not.
    self._rows: dict[Any, int] = {}
    self._labels: dict[Any, int] = {}
    self._integers, self._floats = array.array("q"), array.array("d")
    self._num_read: Counter[str] = Counter()

  def read(self, file: IO[bytes]) -> CocoFile:
    add = {
      "images": self._add_image,
      "annotations": self._add_object,
      "categories": self._add_category,
    }
    for key, entry in json_stream.elements(file, add):
      try:
        add[key](entry)
      except (TypeError, KeyError, AttributeError, UnicodeEncodeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise _EntryError(
          f"has in {key!r} an entry, number {self._num_read[key]}, that is not as it "
          f"should be: {what}"
        ) from error
      self._num_read[key] += 1
    for key, found in (("images", self._images), ("categories", self._categories)):
      if not found:
        raise _EntryError(f"has an empty list {key!r}")
    return self._build()

  def _add_image(self, entry: Any) -> None:
    identity, name = _typed(entry, "id", int, str), _typed(entry, "file_name", str)
    height, width = (
      value if isinstance(value := entry.get(key), int) else 0
      for key in ("height", "width")
    )
    image = CocoImage(identity, name, (height, width))
    if self._images.setdefault(identity, image) != image:
      raise _EntryError(
        f"gives the id {identity!r} to two images, {self._images[identity].name!r} and "
        f"{name!r}: whose the boxes are is not clear"
      )
    if self._names.setdefault(name, identity) != identity:
      raise _EntryError(
        f"lists the image {name!r} twice, with the ids {self._names[name]!r} and "
        f"{identity!r}"
      )

  def _add_category(self, entry: Any) -> None:
    identity, name = _typed(entry, "id", int), _typed(entry, "name", str)
    if self._categories.setdefault(identity, name) != name:
      raise _EntryError(
        f"gives the id {identity} to two categories, {self._categories[identity]!r} "
        f"and {name!r}"
      )

  def _add_object(self, entry: Any) -> None:
    image, category = entry["image_id"], entry["category_id"]
    identity = entry.get("id")
    self._integers.extend(
      (
        self._rows.setdefault(image, len(self._rows)),
        self._labels.setdefault(category, len(self._labels)),
        hash(identity),
        identity is not None,
        entry.get("iscrowd") == 1,
      )
    )
    area = entry.get("area")
    self._floats.extend(_corners(entry.get("bbox")))
    self._floats.append(area if _is_number(area) else math.nan)

  def _build(self) -> CocoFile:
    integers = np.array(self._integers, np.int64).reshape(-1, 5)
    floats = np.array(self._floats, np.float64).reshape(-1, 5)
    images = list(self._images.values())
    positions = {image.id: i for i, image in enumerate(images)}
    labels = {identity: i for i, identity in enumerate(sorted(self._categories))}
    rows = _lookup(self._rows, positions)[integers[:, 0]]
    columns = _lookup(self._labels, labels)[integers[:, 1]]
    repeated, same_id = _find_repeated(integers, floats)
    dropped: dict[str, int] = {}
    keep = np.ones(len(rows), np.bool_)
    for reason, bad in (
      (UNKNOWN_IMAGE, rows < 0),
      (UNKNOWN_CATEGORY, columns < 0),
      (REPEATED, repeated),
    ):
      if number := int((bad & keep).sum()):
        dropped[reason] = number
      keep &= ~bad
    kept = np.flatnonzero(keep)
    order = kept[np.argsort(rows[kept], kind="stable")]
    objects = np.zeros(len(order), boxes.OBJECT_DTYPE)
    objects["box"], objects["area"] = floats[order, :4], floats[order, 4]
    objects["label"], objects["crowd"] = columns[order], integers[order, 4]
    number = int((same_id & keep).sum())
    return CocoFile(
      images=images,
      categories=self._categories,
      objects=objects,
      bounds=np.searchsorted(rows[order], np.arange(len(images) + 1)),
      dropped=dropped,
      remarks={SAME_ID: number} if number else {},
    )


def _typed(entry: Any, key: str, *kinds: type) -> Any:
  value = entry[key]
  if type(value) not in kinds:
    allowed = " or ".join(kind.__name__ for kind in kinds)
    raise TypeError(f"{key!r} is {repr(value)[:50]}, not {allowed}")
  str(value).encode()  # refuses half of a surrogate pair, which no file could hold
  return value


def _is_number(value: Any) -> bool:
  return type(value) in (int, float)


def _corners(box: Any) -> tuple[float, ...]:
  """Returns ymin, xmin, ymax, xmax of COCO's x, y, width, height; NaN where wrong."""
  if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
    return _NO_BOX
  x, y, width, height = box
  with contextlib.suppress(OverflowError):
    return float(y), float(x), float(y + height), float(x + width)
  return _NO_BOX


def _lookup(met: dict[Any, int], known: dict[Any, int]) -> npt.NDArray[np.int64]:
  """Returns the position of each id that was met; -1 where it is not known."""
  return np.array([known.get(identity, -1) for identity in met], np.int64)


def _find_repeated(
  integers: npt.NDArray[np.int64], floats: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
  """Finds, of boxes with the id of an earlier one, those equal to it, and others."""
  repeated = np.zeros(len(integers), np.bool_)
  same_id = np.zeros(len(integers), np.bool_)
  with_id = np.flatnonzero(integers[:, 3])
  _, first, inverse, counts = np.unique(
    integers[with_id, 2], return_index=True, return_inverse=True, return_counts=True
  )
  later = with_id[(counts[inverse] > 1) & (first[inverse] != np.arange(len(with_id)))]
  position = np.zeros(len(integers), np.int64)
  position[with_id] = with_id[first[inverse]]
  earlier = position[later]
  equal = (integers[later] == integers[earlier]).all(axis=1)
  equal &= (floats[later, :4] == floats[earlier, :4]).all(axis=1)
  repeated[later], same_id[later] = equal, ~equal
  return repeated, same_id
