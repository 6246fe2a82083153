"""Source `masks`: a folder of images and a folder of label PNGs with the same names.

    input_dir/images/[train/, val/]a.jpg    (or input_dir/train/images/a.jpg …)
    input_dir/masks/[train/, val/]a.png
    input_dir/classes.txt                   names of the labels, one a line, from 0 on

A mask has the size of its image; its indices (of a palette) or its values (of gray) are
the labels, and 255 is ignored. Where no split is given, a fraction is held out.
"""

from collections.abc import Mapping

from mnv2_hpu.data_preparation import listing
from mnv2_hpu.data_preparation.annotations import masks, paired_folders
from mnv2_hpu.data_preparation.annotations.paired_folders import File
from mnv2_hpu.data_preparation.input_files import InputFolder, InputReader
from mnv2_hpu.data_preparation.listing import (
  Checksum,
  Listing,
  SourceImage,
  SourceOptions,
)
from mnv2_hpu.errors import UserError

NAME = "masks"
_FOLDERS = ("masks", "mask", "annotations", "labels", "SegmentationClass")
_LAYOUT = (
  "expected are the folders images and masks, or these in train and in val, with files "
  "of the same names, and classes.txt"
)


def list_masks(options: SourceOptions) -> Listing:
  """Lists the images and their masks; opens none of them.

  Raises:
    UserError: A folder or classes.txt is missing, or no image has a mask.
  """
  listing.check_fraction(options.validation_fraction)
  folder = InputFolder(options.input_dir, _LAYOUT)
  found = paired_folders.find(folder, _FOLDERS, _LAYOUT)
  names = paired_folders.class_names(folder)
  if names is None:
    raise UserError(
      f"{folder.root} has no classes.txt. Write one: the name of a label a line, the "
      "first for the label 0, which is usually the background."
    )
  splits = {
    split: list(
      paired_folders.pairs(
        folder,
        paired_folders.files_by_stem(folder, place.images),
        paired_folders.files_by_stem(folder, place.annotations),
        "mask",
      )
    )
    for split, place in found.items()
  }
  return make_listing(NAME, folder, names, splits, options)


def make_listing(
  source: str,
  folder: InputFolder,
  label_names: list[str],
  splits: Mapping[str, list[tuple[File, File]]],
  options: SourceOptions,
  lookup: bytes = b"",
) -> Listing:
  """Returns the listing of images with masks.

  Args:
    source: Name of the source.
    folder: The input.
    label_names: Name of each class; the index is the label.
    splits: Images with their masks, by split.
    options: What is requested of the source.
    lookup: `masks.MaskSerializer.lookup`.

  Raises:
    UserError: There are too many classes, or there is nothing to train on.
  """
  if len(label_names) > masks.IGNORED:
    raise UserError(
      f"{folder.root} names {len(label_names)} classes; a mask has labels of 0 to 254, "
      "for 255 is ignored."
    )
  checksum = Checksum()
  checksum.add_content(repr(label_names).encode() + lookup)
  images: dict[str, list[SourceImage]] = {}
  for split, found in splits.items():
    for file in (file for pair in found for file in pair):
      checksum.add(*file)
    images[split] = [
      SourceImage(image.path, annotation=SourceImage(mask.path))
      for image, mask in found
    ]
  if not images["train"]:
    raise UserError(f"{folder.root} has no image with a mask to train on; {_LAYOUT}.")
  held_out = None if "validation" in images else options.validation_fraction
  if held_out:
    images = listing.hold_out(images["train"], held_out, options.seed)
  read = InputReader(options.input_dir)
  return Listing(
    source=source,
    label_names=label_names,
    splits={split: listed for split, listed in images.items() if listed},
    read=read,
    serialize=masks.MaskSerializer(label_names, read, lookup),
    validation_fraction=held_out,
    checksum=checksum.hexdigest(),
    skipped=folder.skipped,
    warnings=folder.warnings(),
    task=masks.TASK,
  )
