"""Source `voc`: images with boxes in PASCAL VOC's folders, one XML for each image.

    input_dir/JPEGImages/…
    input_dir/Annotations/…                          an XML for each image
    input_dir/ImageSets/Main/{train,val}.txt         names of the images of each split

`input_dir` may also be the folder above (`VOCdevkit`, or what holds it). Without
`ImageSets`, as labelImg leaves it, a fraction of the images is held out. The classes
are those of `classes.txt`, or VOC's 20, or else all that the files name, in sorted
order. Difficult objects are kept and marked.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from mnv2_hpu.data_preparation import listing
from mnv2_hpu.data_preparation.annotations import (
  box_listing,
  paired_folders,
  voc_folder,
)
from mnv2_hpu.data_preparation.annotations.formats import voc_xml
from mnv2_hpu.data_preparation.annotations.paired_folders import File
from mnv2_hpu.data_preparation.input_files import InputFolder, read_file
from mnv2_hpu.data_preparation.listing import Listing, SourceOptions
from mnv2_hpu.errors import UserError

NAME = "voc"
_ANNOTATIONS = "Annotations"
_MAX_SIZE = 16 << 20  # bytes of an annotation file
_Annotated = tuple[File, voc_xml.VocAnnotation]


def list_voc(options: SourceOptions) -> Listing:
  """Lists the images and reads their boxes; opens no image.

  Raises:
    UserError: A folder or a list is missing or ambiguous, or no image is annotated.
  """
  listing.check_fraction(options.validation_fraction)
  folder = InputFolder(options.input_dir, voc_folder.LAYOUT)
  voc = voc_folder.locate(folder)
  if not voc.has(_ANNOTATIONS):
    raise UserError(
      f"{folder.root / voc.place} has no folder {_ANNOTATIONS}; {voc_folder.LAYOUT}."
    )
  images = voc.images()
  path = voc.path(_ANNOTATIONS)
  files = paired_folders.files_by_stem(folder, path, ".xml")
  chosen = voc.splits("Main") or {"train": sorted({*files, *images})}
  read = {
    split: list(_annotated(folder, stems, images, files))
    for split, stems in chosen.items()
  }
  names = dict(enumerate(_class_names(folder, read), start=1))
  start, warnings = _first_pixel(read)
  splits = {
    split: [_image(file, annotation, names, start) for file, annotation in found]
    for split, found in read.items()
  }
  return box_listing.make_listing(
    NAME, folder, names, splits, options, warnings=warnings
  )


def _annotated(
  folder: InputFolder,
  stems: list[str],
  images: Mapping[str, File],
  files: Mapping[str, File],
) -> Iterator[_Annotated]:
  """Yields the images that have an annotation; lists the others as skipped."""
  for stem in stems:
    if stem not in images:
      folder.skip(stem, "annotated or listed, but there is no such image")
    elif stem not in files:
      folder.skip(images[stem].path, "it has no annotation")
    else:
      try:
        yield images[stem], voc_xml.parse(_read(folder, files[stem]))
      except voc_xml.XmlError as error:
        folder.skip(images[stem].path, f"its annotation {files[stem].path}: {error}")


def _read(folder: InputFolder, file: File) -> bytes:
  if file.size > _MAX_SIZE:
    raise voc_xml.XmlError(f"it has more than {_MAX_SIZE >> 20} MiB")
  try:
    return read_file(str(folder.root / file.path))
  except OSError as error:
    raise voc_xml.XmlError(f"it cannot be read: {error.strerror or error}") from error


def _class_names(
  folder: InputFolder, read: Mapping[str, list[_Annotated]]
) -> list[str]:
  """Returns the names of the classes, in the order of their labels."""
  given = paired_folders.class_names(folder)
  if given is not None:
    return given
  found = {o.name for part in read.values() for _, a in part for o in a.objects}
  return (
    list(voc_folder.CLASS_NAMES)
    if found <= {*voc_folder.CLASS_NAMES}
    else sorted(found)
  )


def _first_pixel(read: Mapping[str, list[_Annotated]]) -> tuple[int, list[str]]:
  """Returns the number of the first pixel: 1 in VOC's files, 0 in some tools'."""
  for part in read.values():
    for file, annotation in part:
      if any(0 in box.box[:2] for box in annotation.objects):
        return 0, [
          f"boxes count pixels from 0, as in that of {file.path}; VOC's count from 1"
        ]
  return 1, []


def _image(
  file: File,
  annotation: voc_xml.VocAnnotation,
  names: Mapping[int, str],
  first_pixel: int,
) -> box_listing.AnnotatedImage:
  ids = {name: identity for identity, name in names.items()}
  corners = np.array([o.box for o in annotation.objects], np.float64).reshape(-1, 4)
  corners[:, :2] -= first_pixel  # the last pixel is part of the box: it ends behind it
  return box_listing.AnnotatedImage(
    path=file.path,
    num_bytes=file.size,
    classes=np.array([ids.get(o.name, -1) for o in annotation.objects], np.int64),
    corners=corners,
    difficult=np.array([o.difficult for o in annotation.objects], np.bool_),
    size=annotation.size,
  )
