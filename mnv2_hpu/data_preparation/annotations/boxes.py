"""Boxes of an image, whatever file they come from: checked, counted, serialized.

The features are those that Model Garden's `TfExampleDecoder` reads, and besides them
the file's name, the names of the classes, and which objects are difficult.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnv2_hpu import detection_record, example_proto, tfrecord
from mnv2_hpu.data_preparation import shards
from mnv2_hpu.data_preparation.images import EncodedImage
from mnv2_hpu.data_preparation.listing import Record, SourceImage

TASK = "detection"
BACKGROUND = "background"
OBJECT_DTYPE = np.dtype(
  [
    ("box", np.float64, (4,)),  # ymin, xmin, ymax, xmax
    ("area", np.float64),  # in pixels; NaN where the source does not state it
    ("label", np.int32),  # from 1 on; 0 is the background
    ("crowd", np.bool_),
    ("difficult", np.bool_),
  ]
)

NOT_FINITE = "boxes are not four finite numbers: dropped"
NO_AREA = "boxes are inverted or have no area: dropped"
OUTSIDE = "boxes lie outside of their image: dropped"
CLIPPED = "boxes reach beyond their image: clipped to it"
CROWD = "boxes are crowds: kept and marked, which training leaves out"
DIFFICULT = "boxes are difficult: kept and marked"
OTHER_SIZE = "images have another size than is stated: boxes are taken as their pixels"
TURNED = "images have boxes of the upright image, not of its pixels: turned back"
MANY = "images have more than 100 boxes: all are kept; inputs take max_num_instances"
NO_OBJECTS = "images have no objects: kept, all of them background"
LOST_ALL = "images lost all of their boxes: kept, as images without objects"

_MANY_BOXES = 100  # Model Garden's max_num_instances
_TOLERANCE = 0.01  # pixels: COCO's corners are sums of decimals
# Of EXIF orientations that swap the axes: whether to flip (y, x) of the stored image.
_FLIPS = {5: (False, False), 6: (True, False), 7: (True, True), 8: (False, True)}


class ImageBoxes(NamedTuple):
  """What is annotated of an image: `SourceImage.annotation` of a source of boxes.

  Attributes:
    source_id: Number of the image, unique within its split.
    objects: Its objects, `[n]` of `OBJECT_DTYPE`.
    size: Height and width that the source states; zeros where it does not.
    are_fractions: Whether boxes are fractions of the image's size, not pixels.
  """

  source_id: int
  objects: npt.NDArray[Any]
  size: tuple[int, int] = (0, 0)
  are_fractions: bool = False


class CheckedBoxes(NamedTuple):
  """Objects that fit their image.

  Attributes:
    objects: `[n]` of `OBJECT_DTYPE`; boxes in fractions of the image, in [0, 1].
    dropped: Number of boxes left out, by the reason.
    remarks: Number of boxes or images that people should know of, by kind.
  """

  objects: npt.NDArray[Any]
  dropped: dict[str, int]
  remarks: dict[str, int]


def check(annotation: ImageBoxes, image: EncodedImage) -> CheckedBoxes:
  """Drops boxes that are none, clips the others to the image, scales them to it.

  Args:
    annotation: What is annotated of the image.
    image: The image as it is stored; its size counts, whatever the source states.
  """
  objects = annotation.objects.copy()
  size = np.array([image.height, image.width], np.float64)
  remarks = {}
  if any(annotation.size) and annotation.size != (image.height, image.width):
    if annotation.size == (image.width, image.height) and image.orientation in _FLIPS:
      objects["box"] = _turn_back(objects["box"], size, image.orientation)
      remarks[TURNED] = 1
    else:
      remarks[OTHER_SIZE] = 1
  if annotation.are_fractions:
    objects["box"] *= np.tile(size, 2)
  dropped = {}
  for reason, find in ((NOT_FINITE, _not_finite), (NO_AREA, _no_area)):
    bad = find(objects["box"])
    dropped[reason] = int(bad.sum())
    objects = objects[~bad]
  clipped = np.clip(objects["box"], 0, np.tile(size, 2))
  beyond = (np.abs(clipped - objects["box"]) > _TOLERANCE).any(axis=1)
  objects["box"] = clipped
  inside = ~_no_area((clipped / np.tile(size, 2)).astype(np.float32))
  remarks[CLIPPED] = int((beyond & inside).sum())
  dropped[OUTSIDE] = int((~inside).sum())
  objects = objects[inside]
  area = np.prod(objects["box"][:, 2:] - objects["box"][:, :2], axis=1)
  stated = np.isfinite(objects["area"]) & (objects["area"] >= 0)
  objects["area"] = np.where(stated, objects["area"], area)
  objects["box"] /= np.tile(size, 2)
  remarks[CROWD] = int(objects["crowd"].sum())
  remarks[DIFFICULT] = int(objects["difficult"].sum())
  remarks[MANY] = int(len(objects) > _MANY_BOXES)
  if not len(objects):
    remarks[LOST_ALL if len(annotation.objects) else NO_OBJECTS] = 1
  return CheckedBoxes(objects, _counted(dropped), _counted(remarks))


def _not_finite(boxes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
  return ~np.isfinite(boxes).all(axis=1)


def _no_area(boxes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
  return ~(boxes[:, 2:] > boxes[:, :2]).all(axis=1)


def _counted(counts: Mapping[str, int]) -> dict[str, int]:
  return {kind: count for kind, count in counts.items() if count}


def _turn_back(
  boxes: npt.NDArray[np.float64], size: npt.NDArray[np.float64], orientation: int
) -> npt.NDArray[np.float64]:
  """Returns boxes of the upright image in pixels of the stored one, of `size`."""
  turned = boxes[:, [1, 0, 3, 2]]
  for axis, flip in enumerate(_FLIPS[orientation]):
    if flip:
      turned[:, [axis, axis + 2]] = size[axis] - turned[:, [axis + 2, axis]]
  return turned


@dataclasses.dataclass(frozen=True)
class BoxSerializer:
  """Makes the records of a source of boxes; picklable.

  Attributes:
    label_names: Name of each class; the index is the label, 0 is the background.
  """

  label_names: Sequence[str]

  def __call__(self, image: EncodedImage, source: SourceImage, text: str) -> Record:
    """Returns the record of an image; `text` is not used, for it has many classes."""
    objects, dropped, remarks = check(source.annotation, image)
    boxes, labels = objects["box"], objects["label"]
    features = {
      **shards.image_features(image),
      tfrecord.FILENAME_KEY: shards.encode_path(source.path),
      detection_record.SOURCE_ID_KEY: str(source.annotation.source_id).encode(),
      **{key: boxes[:, side] for side, key in enumerate(detection_record.BOX_KEYS)},
      detection_record.LABEL_KEY: labels,
      detection_record.TEXT_KEY: [self.label_names[label].encode() for label in labels],
      detection_record.AREA_KEY: objects["area"],
      detection_record.IS_CROWD_KEY: objects["crowd"].astype(np.int64),
      detection_record.DIFFICULT_KEY: objects["difficult"].astype(np.int64),
    }
    values, numbers = np.unique(labels, return_counts=True)
    counts = dict(zip(values.tolist(), numbers.tolist(), strict=True))
    return Record(example_proto.encode_example(features), counts, dropped, remarks)
