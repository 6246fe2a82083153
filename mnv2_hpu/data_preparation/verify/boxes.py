"""Checks of the objects in a record of detection."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mnv2_hpu import tfrecord

_OPTIONAL_KEYS = (
  tfrecord.BOX_TEXT_KEY,
  tfrecord.BOX_AREA_KEY,
  tfrecord.BOX_CROWD_KEY,
  tfrecord.BOX_DIFFICULT_KEY,
)


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
  source_id = example.get(tfrecord.SOURCE_ID_KEY, [b""])[0]
  if not isinstance(source_id, bytes) or not source_id.isdigit():
    yield f"has {source_id!r} in {tfrecord.SOURCE_ID_KEY}, not the digits of a number"
  labels = list(example.get(tfrecord.BOX_LABEL_KEY, []))
  sides = [list(example.get(key, [])) for key in tfrecord.BOX_KEYS]
  lengths = {len(labels), *map(len, sides)}
  lengths |= {len(example[key]) for key in _OPTIONAL_KEYS if key in example}
  if len(lengths) > 1:
    yield f"has boxes and labels of other numbers than each other: {sorted(lengths)}"
    return
  problems = [*_box_problems(sides), *_label_problems(labels, example, label_names)]
  if not problems:
    counts.update(labels)
  yield from problems


def _box_problems(sides: Sequence[Sequence[Any]]) -> Iterator[str]:
  corners = np.array(sides)
  if corners.size and corners.dtype.kind != "f":
    yield "has boxes that are no floats"
    return
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


def _label_problems(
  labels: Sequence[Any],
  example: Mapping[str, Sequence[Any]],
  label_names: Sequence[str] | None,
) -> Iterator[str]:
  last = np.inf if label_names is None else len(label_names) - 1
  wrong = [label for label in labels if type(label) is not int or not 0 < label <= last]
  if wrong:
    allowed = "1 and more" if label_names is None else f"1 to {last}"
    yield f"has the label {wrong[0]!r} of a box; allowed are {allowed}"
  elif label_names is not None:
    texts = example.get(tfrecord.BOX_TEXT_KEY, [])
    for label, text in zip(labels, texts, strict=False):
      if text != label_names[label].encode():
        yield (
          f"has a box with the label {label}, which is {label_names[label]!r}, but "
          f"{tfrecord.BOX_TEXT_KEY} is {text!r}"
        )
        return
