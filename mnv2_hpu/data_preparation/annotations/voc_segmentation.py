"""Source `voc_segmentation`: PASCAL VOC 2012's masks, or others in its folders.

    input_dir/JPEGImages/…
    input_dir/SegmentationClass/…              palette PNGs; 255 is ignored
    input_dir/SegmentationClassAug/…           SBD's masks, if there are any
    input_dir/ImageSets/Segmentation/{train,trainaug,val}.txt

`input_dir` may also be the folder above (`VOCdevkit`, or what holds it). Where there is
`trainaug.txt`, the 10,582 images that everybody trains on, it is taken for training.
The classes are VOC's 20 after the background, or those of `classes.txt`.
"""

from collections.abc import Mapping

from mnv2_hpu.data_preparation import listing
from mnv2_hpu.data_preparation.annotations import (
  boxes,
  mask_folder,
  paired_folders,
  voc_folder,
)
from mnv2_hpu.data_preparation.annotations.paired_folders import File
from mnv2_hpu.data_preparation.input_files import InputFolder
from mnv2_hpu.data_preparation.listing import Listing, SourceOptions
from mnv2_hpu.errors import UserError

NAME = "voc_segmentation"
_FOLDERS = ("SegmentationClass", "SegmentationClassAug")


def list_voc_segmentation(options: SourceOptions) -> Listing:
  """Lists the images and their masks; opens none of them.

  Raises:
    UserError: A folder or a list is missing or ambiguous, or no image has a mask.
  """
  listing.check_fraction(options.validation_fraction)
  folder = InputFolder(options.input_dir, voc_folder.LAYOUT)
  voc = voc_folder.locate(folder)
  present = [name for name in _FOLDERS if voc.has(name)]
  if not present:
    raise UserError(
      f"{folder.root / voc.place} has no folder {_FOLDERS[0]}; {voc_folder.LAYOUT}."
    )
  # VOC's own masks are the finer ones, where there are both.
  masks: dict[str, File] = {}
  for name in reversed(present):
    masks |= paired_folders.files_by_stem(folder, voc.path(name))
  images = voc.images()
  names = paired_folders.class_names(folder) or [
    boxes.BACKGROUND,
    *voc_folder.CLASS_NAMES,
  ]
  chosen = voc.splits("Segmentation") or {"train": sorted(masks)}
  splits = {
    split: _pairs(folder, stems, images, masks) for split, stems in chosen.items()
  }
  return mask_folder.make_listing(NAME, folder, names, splits, options)


def _pairs(
  folder: InputFolder,
  stems: list[str],
  images: Mapping[str, File],
  masks: Mapping[str, File],
) -> list[tuple[File, File]]:
  found = []
  for stem in stems:
    if stem in images and stem in masks:
      found.append((images[stem], masks[stem]))
    else:
      lacking = "mask" if stem in images else "image"
      folder.skip(stem, f"in the list of a split, but it has no {lacking}")
  return found
