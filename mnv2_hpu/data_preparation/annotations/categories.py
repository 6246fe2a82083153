"""Labels of a source's categories: contiguous, or the source's own ids."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mnv2_hpu.data_preparation.annotations import boxes
from mnv2_hpu.errors import UserError

_MAX_KEPT_ID = 10_000


@dataclasses.dataclass(frozen=True)
class Categories:
  """The labels of a source of boxes; 0 is the background.

  Attributes:
    label_names: Name of each class; the index is the label.
    category_ids: The source's id of each label; 0 for the background and for labels
      that no category has.
    labels: Label of each category, in the order of their ids, `[categories]`.
  """

  label_names: list[str]
  category_ids: list[int]
  labels: npt.NDArray[np.int32]


def number(names: Mapping[int, str], keep_ids: bool) -> Categories:
  """Returns the labels of categories: 1 to their number, in the order of their ids.

  Args:
    names: Name by category id.
    keep_ids: Whether labels are the ids instead, with labels in between that no
      category has; COCO's 80 then have 90, as in the Object Detection API.

  Raises:
    UserError: An id cannot be a label.

  >>> number({18: "dog", 3: "car"}, keep_ids=False).label_names
  ['background', 'car', 'dog']
  >>> number({3: "dog", 1: "car"}, keep_ids=True).label_names
  ['background', 'car', 'unused 2', 'dog']
  """
  ids = sorted(names)
  if not keep_ids:
    return Categories(
      [boxes.BACKGROUND, *(names[identity] for identity in ids)],
      [0, *ids],
      np.arange(1, len(ids) + 1, dtype=np.int32),
    )
  wrong = [identity for identity in ids if not 1 <= identity <= _MAX_KEPT_ID]
  if wrong:
    raise UserError(
      f"--keep_category_ids: the category id {wrong[0]} of {names[wrong[0]]!r} cannot "
      f"be a label; allowed are 1 to {_MAX_KEPT_ID:,}, for 0 is the background. Leave "
      "the flag out: labels are then numbered from 1."
    )
  slots = range(1, ids[-1] + 1)
  return Categories(
    [boxes.BACKGROUND, *(names.get(slot, f"unused {slot}") for slot in slots)],
    [0, *(slot if slot in names else 0 for slot in slots)],
    np.array(ids, np.int32),
  )
