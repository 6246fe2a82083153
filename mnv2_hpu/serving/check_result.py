"""What the check of an export found, and how much formats may differ."""

import dataclasses
import os
import zipfile
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from mnv2_hpu.errors import UserError
from mnv2_hpu.serving import metadata

RESULT = "check.json"
PREDICTIONS = "check.npz"
COMPARISON = (
  "comparison.json"  # comparison of a quantization-aware run with its float run
)
FILES = (RESULT, PREDICTIONS, COMPARISON)

ResultT = TypeVar("ResultT")

# Fraction of the images by which an export may differ from the run's own evaluation,
# which may have computed in bfloat16.
TOLERANCE = 0.005
# Fraction by which a format may differ from its checkpoint: computing in floats, and
# with weights of 8 bits. One image always may.
FLOAT_TOLERANCE, QUANTIZED_TOLERANCE = 0.001, 0.02
QUANTIZED = ("tflite_dynamic", "tflite_int8")
# Difference of a logit between an original file and what preparation made of it, as a
# fraction of the logits' range.
ORIGINALS_TOLERANCE = 0.001


@dataclasses.dataclass(frozen=True)
class Verification:
  """What came out.

  Attributes:
    input_path: Pattern of the TFRecords.
    num_examples: Number of images.
    top1: Images whose label has the highest probability, by format.
    top5: Images whose label is among the five highest, by format; empty where there
      are no more than five classes.
    max_difference: Largest absolute difference of a probability between the formats
      that compute in floats; 0 where there is one.
    originals: Largest difference of a logit between an original file and its prepared
      form, as a fraction of the logits' range, by kind of file.
    checkpoint_top1: Images that the checkpoint predicts rightly; None if unknown.
    agreement: Images of which a format predicts what the checkpoint does, by format.
    megabytes: Size, by format.
    latency_ms: Median milliseconds from an encoded image to its class, by format.
  """

  input_path: str
  num_examples: int
  top1: dict[str, int]
  top5: dict[str, int]
  max_difference: float
  originals: dict[str, float]
  checkpoint_top1: int | None = None
  agreement: dict[str, int] = dataclasses.field(default_factory=dict)
  megabytes: dict[str, float] = dataclasses.field(default_factory=dict)
  latency_ms: dict[str, float] = dataclasses.field(default_factory=dict)

  def summary(self, expected: Mapping[str, float]) -> str:
    """Returns the table to print beside the run's own accuracies."""
    if "top1" in expected:
      logged = f"the run's evaluation {expected['top1'] * self.num_examples:.0f}"
    else:
      logged = "the run logged no evaluation of these weights at this step"
    lines = [
      f"checked in a fresh process on {self.num_examples:,} images: "
      f"{len(self.originals)} kinds of image files are read as preparation reads them; "
      f"correct: {logged}, the checkpoint {self.checkpoint_top1}",
      f"  {'format':<16}{'correct':>9}{'as the checkpoint':>19}{'MB':>8}{'ms':>8}",
    ]
    for name, count in self.top1.items():
      agreement = self.agreement.get(name, "")
      lines.append(
        f"  {name:<16}{count:>9,}{agreement:>19}{self.megabytes.get(name, 0):>8.2f}"
        f"{self.latency_ms.get(name, 0):>8.1f}"
      )
    return "\n".join(lines)


def read_result(export_dir: str) -> Verification:
  """Returns what the check of an export found.

  Raises:
    UserError: If its file is missing or cannot be read.
  """
  result = read_as(Verification, export_dir)
  is_table = isinstance(result.top1, dict)
  counts = [result.num_examples, *(result.top1.values() if is_table else (None,))]
  if not result.num_examples or not all(isinstance(n, int) for n in counts):
    raise UserError(
      f"{RESULT} in {export_dir!r}: its counts are no whole numbers. Export again."
    )
  return result


def read_as(kind: type[ResultT], export_dir: str) -> ResultT:
  """Returns what the check of an export found, of a task's kind.

  Raises:
    UserError: If its file is missing or cannot be read.
  """
  content = metadata.read(export_dir, RESULT)
  try:
    return kind(**content)
  except (TypeError, AttributeError) as error:  # written by another version
    raise UserError(f"{RESULT} in {export_dir!r}: {error}. Export again.") from error


def read_predictions(
  export_dir: str, num_classes: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Returns what `predict` returned when the export was checked.

  Args:
    export_dir: Folder of an export.
    num_classes: Number of its classes.

  Raises:
    UserError: If its file is missing or cannot be read.
  """
  path = os.path.join(export_dir, PREDICTIONS)
  try:
    with np.load(path) as stored:
      arrays = dict(stored)
    labels = arrays.pop("labels")
    shapes = {values.shape for values in arrays.values()}
    if shapes != {(len(labels), num_classes)}:
      raise ValueError(f"its predictions have the shapes {sorted(shapes)}")
    if not set(labels.tolist()) <= set(range(num_classes)):
      raise ValueError(f"its labels are not all below {num_classes}")
    return labels, arrays
  except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
    raise UserError(f"{path!r} cannot be read: {error}. Export again.") from error


def compare(result: Verification, expected: Mapping[str, float]) -> None:
  """Compares the counts of the formats with the checkpoint's and the expected ones.

  >>> result = Verification("val-*", 1000, {"tflite": 990}, {}, 0.0, {})
  >>> compare(result, {"top1": 0.992})

  Raises:
    UserError: If a format differs from the checkpoint (where that is unknown, from the
      best format) by more than `FLOAT_TOLERANCE` or `QUANTIZED_TOLERANCE` of the
      images, from the run's evaluation by more than `TOLERANCE`, or an original by more
      than `ORIGINALS_TOLERANCE`.
  """
  total = result.num_examples
  best = max(result.top1.values(), default=0)
  known = result.checkpoint_top1
  for name, count in result.top1.items():
    fraction = QUANTIZED_TOLERANCE if name in QUANTIZED else FLOAT_TOLERANCE
    _check_gap(
      "top1",
      {
        name: count,
        "the best format" if known is None else "the checkpoint": best
        if known is None
        else known,
      },
      total,
      fraction,
    )
  for metric, counts in (("top1", result.top1), ("top5", result.top5)):
    for name, count in counts.items():
      if metric in expected and name not in QUANTIZED:
        logged = {name: count, "the run's evaluation": round(expected[metric] * total)}
        _check_gap(metric, logged, total, TOLERANCE)
  differing = [k for k, v in result.originals.items() if v > ORIGINALS_TOLERANCE]
  if differing:
    raise UserError(
      f"the export reads image files otherwise than training saw them: "
      f"{', '.join(differing)}. Do not use this export for such files; convert them "
      "to RGB first, as preparation does."
    )


def _check_gap(
  metric: str, counts: Mapping[str, int], total: int, fraction: float
) -> None:
  if max(counts.values()) - min(counts.values()) > max(1, fraction * total):
    found = ", ".join(f"{name} {count}" for name, count in counts.items())
    raise UserError(
      f"what was exported is not what was evaluated: correct ({metric}) of "
      f"{total} images: {found}; they may differ by {fraction:.1%}. "
      "Do not use this export. Are the images those of the run's evaluation "
      "(task.validation_data.input_path), with the same preprocessing?"
    )
