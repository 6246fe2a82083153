"""Checks of the mask in a record of segmentation."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mnv2_hpu import tfrecord
from mnv2_hpu.data_preparation.annotations import masks
from mnv2_hpu.data_preparation.images import BadImageError


def find_problems(
  example: Mapping[str, Sequence[Any]],
  label_names: Sequence[str] | None,
  counts: Counter[int],
) -> Iterator[str]:
  """Yields what is wrong with the mask; counts its pixels where nothing is.

  Args:
    example: Values by key, as `tfrecord.parse_example` returns them.
    label_names: Names of the classes; where None, any label is in range.
    counts: Pixels by label, to add to.
  """
  try:
    encoded = tfrecord.encoded_image(example, tfrecord.MASK_KEY)
    mask = masks.decode(encoded)
  except (tfrecord.CorruptRecordError, BadImageError) as error:
    yield str(error)
    return
  if mask.remark:
    yield f"has a mask that TensorFlow would not decode to labels: {mask.remark}"
  size = tuple(
    example.get(key, [0])[0] for key in (tfrecord.HEIGHT_KEY, tfrecord.WIDTH_KEY)
  )
  if mask.labels.shape != size:
    height, width = mask.labels.shape
    yield f"has a mask of {height}x{width} for an image of {size[0]}x{size[1]}"
  found = masks.count(mask.labels)
  last = masks.IGNORED if label_names is None else len(label_names) - 1
  wrong = [label for label in found if label > last]
  if wrong:
    yield f"has a mask with the label {wrong[0]}; allowed are 0 to {last} and 255"
  else:
    counts.update(found)
