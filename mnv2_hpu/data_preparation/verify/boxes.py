"""Checks of the objects in a record of detection."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mnv2_hpu import detection_record, tfrecord


def find_problems(
  example: Mapping[str, Sequence[Any]],
  label_names: Sequence[str] | None,
  counts: Counter[int],
) -> Iterator[str]:
  """Yields what is wrong with the boxes and their labels; counts them where nothing is.

  Args:
    example: Values by key, as `tfrecord.parse_example` returns them.
    label_names: Names of the classes, the background first; where None, any label from
      1 is in range.
    counts: Boxes by label, to add to.
  """
  num_classes = None if label_names is None else len(label_names)
  try:
    labels = detection_record.labels_of(example, num_classes)
  except (tfrecord.CorruptRecordError, tfrecord.LabelError) as error:
    yield str(error)
    return
  problems = [*_box_problems(example), *_text_problems(labels, example, label_names)]
  source_id = example[detection_record.SOURCE_ID_KEY][0]
  if not source_id.isdigit():
    problems.append(
      f"has {source_id!r} in {detection_record.SOURCE_ID_KEY}, not the digits of a "
      "number"
    )
  if not problems:
    counts.update(labels)
  yield from problems


def _box_problems(example: Mapping[str, Sequence[Any]]) -> Iterator[str]:
  corners = np.array([example.get(key, []) for key in detection_record.BOX_KEYS])
  ymin, xmin, ymax, xmax = corners
  inside = ((corners >= 0) & (corners <= 1)).all(axis=0)
  for what, bad in (
    ("outside of [0, 1]", ~inside),
    ("inverted or without area", inside & ~((ymin < ymax) & (xmin < xmax))),
  ):
    if bad.any():
      first = int(np.argmax(bad))
      shown = ", ".join(f"{value:.6g}" for value in corners[:, first])
      yield f"has {bad.sum()} boxes {what}, the first is number {first}: {shown}"


def _text_problems(
  labels: Sequence[int],
  example: Mapping[str, Sequence[Any]],
  label_names: Sequence[str] | None,
) -> Iterator[str]:
  texts = example.get(detection_record.TEXT_KEY, [])
  for label, text in zip(labels, texts, strict=False):
    if label_names is not None and text != label_names[label].encode():
      yield (
        f"has a box with the label {label}, which is {label_names[label]!r}, but "
        f"{detection_record.TEXT_KEY} is {text!r}"
      )
      return
