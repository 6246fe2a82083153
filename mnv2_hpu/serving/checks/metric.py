"""Reloads an export in a fresh process and compares its metrics with its checkpoint's.

What tasks other than classification share; each has a `MetricVerification` of its own.
`check.json`, which is written into the folder of the export, holds what came out.
"""

import abc
import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from mnv2_hpu import files
from mnv2_hpu.errors import UserError
from mnv2_hpu.serving import check_result, exported_models, metadata, verify

# What formats are compared with.
CHECKPOINT = "checkpoint"

Metrics = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class MetricVerification(abc.ABC):
  """What came out.

  Attributes:
    input_path: Pattern of the TFRecords.
    num_images: Number of images.
    metrics: Metrics by format, in [0, 1]; -1 where there is nothing to find.
    checkpoint: Those of the programs of the checkpoint itself.
    megabytes: Size, by format.
    latency_ms: Median milliseconds from an encoded image to its result, by format.
  """

  input_path: str
  num_images: int
  metrics: dict[str, dict[str, float]]
  checkpoint: dict[str, dict[str, float]]
  megabytes: dict[str, float]
  latency_ms: dict[str, float]

  # What the columns are, for people.
  title: ClassVar[str]
  # Programs of a checkpoint that formats are compared with: functions of its module.
  programs: ClassVar[dict[str, str]] = {CHECKPOINT: "inference_from_image_bytes"}
  # Maximum difference of a metric: of formats that compute in floats, and with 8 bits.
  float_tolerance: ClassVar[float] = 0.005
  quantized_tolerance: ClassVar[float] = 0.05

  @classmethod
  def measure(
    cls,
    models: Mapping[str, exported_models.Predict],
    input_path: str,
    content: Mapping[str, Any],
    description: str = "check export",
  ) -> tuple[int, dict[str, dict[str, float]]]:
    """Runs models over all records.

    Args:
      models: Formats, as `exported_models.load` returns them.
      input_path: Pattern of TFRecords.
      content: Content of `export.json`.
      description: Name of the work, for the progress.

    Returns:
      The number of images, and metrics by format.

    Raises:
      UserError: If there are no records, or an image cannot be read.
    """
    with verify.named_errors(input_path):
      return cls._measure(models, input_path, content, description)

  @classmethod
  @abc.abstractmethod
  def _measure(
    cls,
    models: Mapping[str, exported_models.Predict],
    input_path: str,
    content: Mapping[str, Any],
    description: str,
  ) -> tuple[int, dict[str, dict[str, float]]]:
    """See `measure`."""

  @staticmethod
  def program_of(format_name: str) -> str:
    """Returns which of `programs` a format is compared with."""
    del format_name
    return CHECKPOINT

  def notes(self) -> list[str]:
    """Returns lines on what people should know of the numbers."""
    return []

  def summary(self) -> str:
    """Returns the table to print."""
    rows = {**self.checkpoint, **self.metrics}
    columns = list(next(iter(rows.values())))
    lines = [
      f"checked in a fresh process on {self.num_images:,} images: {self.title}",
      f"  {'format':<20}{''.join(f'{c:>10}' for c in (*columns, 'MB', 'ms'))}",
    ]
    for name, values in rows.items():
      line = f"  {name:<20}{''.join(f'{values[c]:>10.4f}' for c in columns)}"
      if name in self.megabytes:
        line += f"{self.megabytes[name]:>10.2f}{self.latency_ms[name]:>10.1f}"
      lines.append(line)
    return "\n".join([*lines, *(f"  note: {note}" for note in self.notes())])

  def compare(self) -> None:
    """Compares the metrics of the formats with the checkpoint's.

    Raises:
      UserError: If one differs by more than `float_tolerance`, of 8 bits by more than
        `quantized_tolerance`.
    """
    for name, values in self.metrics.items():
      is_quantized = name in check_result.QUANTIZED
      allowed = self.quantized_tolerance if is_quantized else self.float_tolerance
      self._check_gap(name, values, allowed)

  def _check_gap(self, name: str, values: Metrics, allowed: float) -> None:
    program = self.program_of(name)
    for metric, expected in self.checkpoint[program].items():
      if not abs(values[metric] - expected) <= allowed:
        hint = "Export again, or report this with the run's params.yaml."
        if name == "tflite_int8":
          hint = "Calibrate it with more images (--calibration_images)."
        raise UserError(
          f"what was exported is not what was evaluated: {metric} of "
          f"{self.num_images} images is {values[metric]:.4f} of {name} and "
          f"{expected:.4f} of the {program}; they may differ by {allowed}. Do not use "
          f"this export. {hint}"
        )


def check_export(
  kind: type[MetricVerification],
  export_dir: str,
  input_path: str,
  checkpoint: Mapping[str, Metrics],
) -> MetricVerification:
  """Verifies an export in a process of its own.

  Args:
    kind: The task's.
    export_dir: Folder that `serving.export` wrote.
    input_path: Pattern of the TFRecords to run it over.
    checkpoint: Metrics of `kind.programs` on these images.

  Raises:
    UserError: If the export cannot be run, or a metric differs by more than it may
      (`MetricVerification.compare`).
  """
  result = verify.in_fresh_process(
    export_dir, verify_metrics, kind, input_path, dict(checkpoint)
  )
  result.compare()
  return result


def verify_metrics(
  export_dir: str,
  kind: type[MetricVerification],
  input_path: str,
  checkpoint: dict[str, dict[str, float]],
) -> MetricVerification:
  """Runs an export over records; writes `check_result.RESULT`.

  Args:
    export_dir: Folder that `serving.export` wrote.
    kind: The task's.
    input_path: Pattern of the TFRecords to run it over.
    checkpoint: Metrics of `kind.programs` on these images.

  Raises:
    UserError: If the folder holds no export, or there are no records.
  """
  models = exported_models.load(export_dir)
  num_images, metrics = kind.measure(models, input_path, metadata.read(export_dir))
  result = kind(
    input_path,
    num_images,
    metrics,
    checkpoint,
    {name: verify.megabytes(export_dir, name) for name in models},
    {name: verify.latency(run) for name, run in models.items()},
  )
  with files.atomic_write(os.path.join(export_dir, check_result.RESULT)) as file:
    json.dump(dataclasses.asdict(result), file, indent=2)
  return result
