"""TFRecords of images with boxes: feature keys, and what is wrong with a record.

The keys are those of Model Garden's `TfExampleDecoder` and of the TF Object Detection
API. Imports no TensorFlow.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mnv2_hpu import tfrecord

SOURCE_ID_KEY = "image/source_id"
# Of each box: fractions of the image, a label from 1 on (0 is the background).
BOX_KEYS = tuple(
  f"image/object/bbox/{side}" for side in ("ymin", "xmin", "ymax", "xmax")
)
LABEL_KEY = "image/object/class/label"
AREA_KEY = "image/object/area"  # square pixels of the image
IS_CROWD_KEY = "image/object/is_crowd"
TEXT_KEY = "image/object/class/text"  # name of the class
DIFFICULT_KEY = "image/object/difficult"  # a key of PASCAL VOC

# These may be missing where an image has boxes.
_OPTIONAL_KEYS = (AREA_KEY, IS_CROWD_KEY, TEXT_KEY, DIFFICULT_KEY)


def labels_of(
  example: Mapping[str, Sequence[Any]], num_classes: int | None = None
) -> list[int]:
  """Returns the labels of all boxes of a parsed example.

  Args:
    example: Values by key, as `tfrecord.parse_example` returns them.
    num_classes: Labels are to lie in [1, num_classes): the background counts as a
      class. None allows any from 1 on.

  Raises:
    tfrecord.CorruptRecordError: If there is no id of the image, if coordinates, labels
      and so on are not as many, or if a coordinate is no number.
    tfrecord.LabelError: If a label is outside the classes.
  """
  ids = example.get(SOURCE_ID_KEY, ())
  if len(ids) != 1 or not isinstance(ids[0], bytes):
    raise tfrecord.CorruptRecordError(f"has no text in the feature {SOURCE_ID_KEY!r}")
  labels = list(example.get(LABEL_KEY, ()))
  for key in (*BOX_KEYS, *_OPTIONAL_KEYS):
    count = len(example.get(key, ()))
    if count != len(labels) and not (key in _OPTIONAL_KEYS and count == 0):
      raise tfrecord.CorruptRecordError(
        f"has {len(labels)} boxes in {LABEL_KEY!r}, but {count} in {key!r}"
      )
  for key in BOX_KEYS:
    if not all(math.isfinite(value) for value in example.get(key, ())):
      raise tfrecord.CorruptRecordError(
        f"has a coordinate that is no number in {key!r}"
      )
  _check_labels(labels, num_classes)
  return labels


def _check_labels(labels: Sequence[Any], num_classes: int | None) -> None:
  allowed = "1 and more" if num_classes is None else f"1 to {num_classes - 1}"
  for label in labels:
    if not isinstance(label, int):
      raise tfrecord.CorruptRecordError(
        f"has the label {label!r} in {LABEL_KEY!r}; a label is an integer"
      )
    if label < 1 or (num_classes is not None and label >= num_classes):
      raise tfrecord.LabelError(
        f"has a box with the label {label}; allowed are {allowed}, for 0 is the "
        "background. Set num_classes to the highest label, or prepare the data again."
      )
