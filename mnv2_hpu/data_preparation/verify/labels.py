"""Checks of the label in a record of classification."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mnv2_hpu import tfrecord


def find_problems(
  example: Mapping[str, Sequence[Any]],
  label_names: Sequence[str] | None,
  counts: Counter[int],
) -> Iterator[str]:
  """Yields what is wrong with the label; counts it where nothing is.

  Args:
    example: Values by key, as `tfrecord.parse_example` returns them.
    label_names: Names of the classes; where None, any label from 0 is in range.
    counts: Records by label, to add to.
  """
  try:
    label = tfrecord.label_of(
      example, num_classes=None if label_names is None else len(label_names)
    )
  except (tfrecord.CorruptRecordError, tfrecord.LabelError) as error:
    yield str(error)
    return
  counts[label] += 1
  key = tfrecord.SYNSET_KEY if tfrecord.SYNSET_KEY in example else tfrecord.TEXT_KEY
  texts = example.get(key, [])
  if label_names is not None and texts and isinstance(texts[0], bytes):
    text = texts[0].decode("utf-8", errors="backslashreplace")
    if text != label_names[label]:
      yield (
        f"has the label {label}, which is {label_names[label]!r}, but {key} is {text!r}"
      )
