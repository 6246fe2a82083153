"""PASCAL VOC's folders: where they lie, which images each split has, the classes."""

import os
from typing import NamedTuple

from mnv2_hpu.data_preparation.annotations import paired_folders
from mnv2_hpu.data_preparation.annotations.paired_folders import File
from mnv2_hpu.data_preparation.input_files import InputFolder, read_file
from mnv2_hpu.errors import UserError, shorten

CLASS_NAMES = (
  "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
  "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
  "train", "tvmonitor",
)  # fmt: skip
LAYOUT = (
  "expected are VOC's folders JPEGImages and Annotations (of boxes) or "
  "SegmentationClass (of masks), and ImageSets"
)
_IMAGES = "JPEGImages"
_YEARS = "VOC20"
_DEVKIT = "VOCdevkit"


class VocFolder(NamedTuple):
  """The folder of one VOC set.

  Attributes:
    input: The input.
    place: Where in the input JPEGImages and the others lie; empty for its top.
  """

  input: InputFolder
  place: str

  def has(self, *parts: str) -> bool:
    """Returns whether there is such a file or folder."""
    return os.path.exists(self.input.root.joinpath(self.place, *parts))

  def path(self, *parts: str) -> str:
    """Returns the path in the input of a file or folder of the set."""
    return os.path.join(self.place, *parts)

  def images(self) -> dict[str, File]:
    """Returns the images by name, without suffix."""
    return paired_folders.files_by_stem(self.input, self.path(_IMAGES))

  def image_set(self, kind: str, name: str) -> list[str]:
    """Returns the images that `ImageSets/<kind>/<name>.txt` names.

    Raises:
      UserError: It cannot be read.
    """
    path = self.input.root / self.path("ImageSets", kind, f"{name}.txt")
    try:
      lines = read_file(str(path)).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
      raise UserError(f"{path} cannot be read as a list of names: {error}.") from error
    names = [line.split()[0] for line in lines if line.strip()]
    return list(dict.fromkeys(names))

  def splits(self, kind: str) -> dict[str, list[str]] | None:
    """Returns the names of each split by VOC's lists; None where there are none.

    `train.txt` (or, of masks, `trainaug.txt` of SBD) and `val.txt`; where there is
    `trainval.txt` alone, it is all there is to train on.

    Args:
      kind: `Main` for boxes, `Segmentation` for masks.

    Raises:
      UserError: A list cannot be read, or an image is in both splits.
    """
    lists = [
      name
      for name in ("trainaug", "train", "trainval", "val")
      if self.has("ImageSets", kind, f"{name}.txt")
    ]
    training = [name for name in lists if name != "val"]
    if not training:
      return None
    splits = {"train": self.image_set(kind, training[0])}
    if "val" in lists and training[0] != "trainval":
      splits["validation"] = self.image_set(kind, "val")
      both = sorted(set(splits["train"]) & set(splits["validation"]))
      if both:
        raise UserError(
          f"{self.input.root / self.path('ImageSets', kind)} has {shorten(both, 3)} "
          f"in {training[0]}.txt and in val.txt: what is validated would have been "
          "trained on. Remove them from one of the lists."
        )
    return splits


def locate(folder: InputFolder) -> VocFolder:
  """Returns the VOC set of an input, which may be a folder or two above it.

  Raises:
    UserError: There is none, or there are several.
  """
  places = [""]
  for above in ("", _DEVKIT):
    if os.path.isdir(folder.root / above):
      places += [
        os.path.join(above, name)
        for name in folder.folders(above)
        if name.startswith(_YEARS)
      ]
  found = [place for place in places if os.path.isdir(folder.root / place / _IMAGES)]
  if not found:
    raise UserError(f"{folder.root} has no folder {_IMAGES}; {LAYOUT}.")
  if len(found) > 1:
    raise UserError(
      f"{folder.root} has {' and '.join(place or '.' for place in found)}: which of "
      "them to take is not clear. Give one of them as --input_dir."
    )
  return VocFolder(folder, found[0])
