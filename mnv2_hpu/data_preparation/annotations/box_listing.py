"""Makes the listing of a source whose boxes lie in one file for each image."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mnv2_hpu.data_preparation import listing
from mnv2_hpu.data_preparation.annotations import boxes, categories
from mnv2_hpu.data_preparation.input_files import InputFolder, InputReader
from mnv2_hpu.data_preparation.listing import (
  Checksum,
  Listing,
  SourceImage,
  SourceOptions,
)
from mnv2_hpu.errors import UserError

UNKNOWN_CLASS = "boxes are of an unknown class: dropped"
Dropped = dict[str, tuple[int, str]]


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
  """One image and what its file says of it.

  Attributes:
    path: Path of the image in the input.
    num_bytes: Bytes of the image.
    classes: Category id of each box; -1 where the class is unknown; int64 `[n]`.
    corners: ymin, xmin, ymax, xmax of each box; float64 `[n, 4]`.
    difficult: Which boxes are difficult; bool `[n]`.
    size: Height and width that the file states; zeros where it does not.
    are_fractions: Whether boxes are fractions of the image's size, not pixels.
  """

  path: str
  num_bytes: int
  classes: npt.NDArray[np.int64]
  corners: npt.NDArray[np.float64]
  difficult: npt.NDArray[np.bool_]
  size: tuple[int, int] = (0, 0)
  are_fractions: bool = False


def make_listing(
  source: str,
  folder: InputFolder,
  names: Mapping[int, str],
  splits: Mapping[str, Sequence[AnnotatedImage]],
  options: SourceOptions,
  dropped: Dropped | None = None,
  warnings: Sequence[str] = (),
) -> Listing:
  """Returns the listing of images with boxes; they are numbered from 1.

  Args:
    source: Name of the source.
    folder: The input.
    names: Name of each class by its category id.
    splits: Images by split.
    options: What is requested of the source.
    dropped: `Listing.dropped`, as far as it is known.
    warnings: What else people should know, a line each.

  Raises:
    UserError: There is nothing to train on, or an id cannot be a label.
  """
  numbered = categories.number(names, options.keep_category_ids)
  checksum = Checksum()
  checksum.add_content(repr(numbered).encode())
  dropped = dict(dropped or {})
  images: dict[str, list[SourceImage]] = {}
  source_id = 0
  for split, found in splits.items():
    images[split] = []
    for image in found:
      source_id += 1
      objects = _objects(image, numbered, sorted(names))
      if unknown := len(image.classes) - len(objects):
        count, first = dropped.get(UNKNOWN_CLASS, (0, image.path))
        dropped[UNKNOWN_CLASS] = count + unknown, first
      checksum.add(image.path, image.num_bytes)
      checksum.add_content(objects.tobytes())
      annotation = boxes.ImageBoxes(source_id, objects, image.size, image.are_fractions)
      images[split].append(SourceImage(image.path, annotation=annotation))
  if not images["train"]:
    raise UserError(f"{folder.root} has no annotated image to train on.")
  held_out = None if "validation" in images else options.validation_fraction
  if held_out:
    images = listing.hold_out(images["train"], held_out, options.seed)
  return Listing(
    source=source,
    label_names=numbered.label_names,
    splits={split: listed for split, listed in images.items() if listed},
    read=InputReader(options.input_dir),
    serialize=boxes.BoxSerializer(numbered.label_names),
    validation_fraction=held_out,
    checksum=checksum.hexdigest(),
    skipped=folder.skipped,
    warnings=[*warnings, *folder.warnings()],
    task=boxes.TASK,
    category_ids=numbered.category_ids,
    dropped=dropped,
  )


def _objects(
  image: AnnotatedImage, numbered: categories.Categories, ids: Sequence[int]
) -> npt.NDArray[np.void]:
  """Returns the objects of known classes, with their labels."""
  known = np.isin(image.classes, ids)
  objects = np.zeros(int(known.sum()), boxes.OBJECT_DTYPE)
  objects["box"] = image.corners[known]
  objects["area"] = np.nan
  objects["label"] = numbered.labels[np.searchsorted(ids, image.classes[known])]
  objects["difficult"] = image.difficult[known]
  return objects
