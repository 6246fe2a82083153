"""Source `cityscapes`: its folders, as they are unpacked from the two zip files.

    input_dir/leftImg8bit/{train,val}/<city>/<name>_leftImg8bit.png
    input_dir/gtFine/{train,val}/<city>/<name>_gtFine_labelIds.png

Labels are the 19 train ids, and 255, ignored, is everything else (`labels.py` of
mcordts/cityscapesScripts). Masks named `…_labelTrainIds.png` are taken where there are
some, as their `createTrainIdLabelImgs.py` writes them.
"""

import os

from mnv2_hpu.data_preparation.annotations import mask_folder, masks, paired_folders
from mnv2_hpu.data_preparation.annotations.paired_folders import File
from mnv2_hpu.data_preparation.input_files import InputFolder
from mnv2_hpu.data_preparation.listing import Listing, SourceOptions
from mnv2_hpu.errors import UserError

NAME = "cityscapes"
_LAYOUT = "expected are the folders leftImg8bit/{train,val} and gtFine/{train,val}"
_IMAGES, _MASKS = "leftImg8bit", "gtFine"
_IMAGE_ENDING = "_leftImg8bit"
_MASK_ENDINGS = {True: "_gtFine_labelTrainIds", False: "_gtFine_labelIds"}
# (id, name) in the order of the train ids; ids that are not here have none.
_CLASSES = (
  (7, "road"), (8, "sidewalk"), (11, "building"), (12, "wall"), (13, "fence"),
  (17, "pole"), (19, "traffic light"), (20, "traffic sign"), (21, "vegetation"),
  (22, "terrain"), (23, "sky"), (24, "person"), (25, "rider"), (26, "car"),
  (27, "truck"), (28, "bus"), (31, "train"), (32, "motorcycle"), (33, "bicycle"),
)  # fmt: skip
_NUM_IDS = 34  # further values are no ids


def list_cityscapes(options: SourceOptions) -> Listing:
  """Lists the images and their masks; opens none of them.

  Raises:
    UserError: A folder is missing, or no image has a mask.
  """
  folder = InputFolder(options.input_dir, _LAYOUT)
  present = folder.folders()
  for name in (_IMAGES, _MASKS):
    if name not in present:
      raise UserError(f"{folder.root} has no folder {name}; {_LAYOUT}.")
  found = {
    split: (
      _files(folder, _IMAGES, name, _IMAGE_ENDING),
      {
        train: _files(folder, _MASKS, name, end) for train, end in _MASK_ENDINGS.items()
      },
    )
    for split, name in (("train", "train"), ("validation", "val"))
    if name in folder.folders(_IMAGES)
  }
  if "train" not in found:
    raise UserError(f"{folder.root / _IMAGES} has no folder train; {_LAYOUT}.")
  are_train_ids = all(annotated[True] for _, annotated in found.values())
  splits = {
    split: list(paired_folders.pairs(folder, images, annotated[are_train_ids], "mask"))
    for split, (images, annotated) in found.items()
  }
  names = [name for _, name in _CLASSES]
  lookup = b"" if are_train_ids else _train_ids()
  return mask_folder.make_listing(NAME, folder, names, splits, options, lookup)


def _files(folder: InputFolder, place: str, split: str, ending: str) -> dict[str, File]:
  """Returns the files of an ending by city and name."""
  if split not in folder.folders(place):
    return {}
  found = paired_folders.files_by_stem(folder, os.path.join(place, split), ".png")
  return {
    stem.removesuffix(ending): file
    for stem, file in found.items()
    if stem.endswith(ending)
  }


def _train_ids() -> bytes:
  """Returns the label of each id: 255 without one; what is no id stays, to be found."""
  table = [masks.IGNORED] * _NUM_IDS + list(range(_NUM_IDS, 256))
  for label, (identity, _) in enumerate(_CLASSES):
    table[identity] = label
  return bytes(table)
