"""Reloads an export in a fresh process and runs it over held-out images.

What is exported has to be what was evaluated: nothing of the process that wrote it is
at hand here, neither the model's code nor its configuration.

`check.json` (counts and differences) and `check.npz` (`labels`, and the probabilities
of every format) are written into the folder of the export.
"""

import dataclasses
import json
import multiprocessing
import os
import zipfile
from collections.abc import Mapping
from concurrent import futures

import numpy as np
import tensorflow as tf

from mnv2_hpu import files
from mnv2_hpu.data_preparation import images
from mnv2_hpu.dataloaders import encoded_examples, record_files
from mnv2_hpu.errors import UserError
from mnv2_hpu.progress import Progress
from mnv2_hpu.serving import metadata, sample_images
from mnv2_hpu.serving.exported_models import Predict, load

RESULT = "check.json"
PREDICTIONS = "check.npz"

# Fraction of the images by which an export may differ from the run's own evaluation.
TOLERANCE = 0.005
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
    top5: Images whose label is among the five highest, by format.
    max_difference: Largest absolute difference of a probability between the formats; 0
      where there is one format.
    originals: Largest difference of a logit between an original file and its prepared
      form, as a fraction of the logits' range, by kind of file.
  """

  input_path: str
  num_examples: int
  top1: dict[str, int]
  top5: dict[str, int]
  max_difference: float
  originals: dict[str, float]

  def summary(self, expected: Mapping[str, float]) -> str:
    """Returns the line to print beside the run's own accuracies."""
    correct = [f"{name} {count}" for name, count in self.top1.items()]
    if "top1" in expected:
      correct.append(f"the run's evaluation {expected['top1'] * self.num_examples:.0f}")
    else:
      correct.append("the run logged no evaluation of these weights at this step")
    return (
      f"checked in a fresh process: correct of {self.num_examples} images: "
      f"{', '.join(correct)}; largest difference of a probability "
      f"{self.max_difference:.1e}; {len(self.originals)} kinds of image files are read "
      "as preparation reads them"
    )


def check_export(
  export_dir: str, input_path: str, expected: Mapping[str, float] | None = None
) -> Verification:
  """Verifies an export in a process of its own.

  Args:
    export_dir: Folder that `serving.export` wrote.
    input_path: Pattern of the TFRecords to run it over.
    expected: Accuracies of the run's own evaluation of these images with these
      weights, in [0, 1]: "top1", "top5" or both; None compares the formats only.

  Raises:
    UserError: If the export cannot be run, if an accuracy differs by more than
      `TOLERANCE` from the one expected or between the formats, or if an original image
      file is read otherwise than preparation reads it.
  """
  spawn = multiprocessing.get_context("spawn")
  try:
    with futures.ProcessPoolExecutor(1, spawn) as pool:
      result = pool.submit(verify, export_dir, input_path).result()
  except futures.process.BrokenProcessPool as error:
    raise UserError(
      f"the export in {export_dir!r} could not be checked: the process was killed, "
      "perhaps for lack of memory. --nocheck exports all the same."
    ) from error
  compare(result, expected or {})
  return result


def read_result(export_dir: str) -> Verification:
  """Returns what the check of an export found.

  Raises:
    UserError: If its file is missing or cannot be read.
  """
  content = metadata.read(export_dir, RESULT)
  try:
    return Verification(**content)
  except TypeError as error:  # written by another version
    raise UserError(f"{RESULT} in {export_dir!r}: {error}. Export again.") from error


def read_predictions(export_dir: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Returns what `predict` returned when the export was checked.

  Raises:
    UserError: If its file is missing or cannot be read.
  """
  path = os.path.join(export_dir, PREDICTIONS)
  try:
    with np.load(path) as stored:
      arrays = dict(stored)
    return arrays.pop("labels"), arrays
  except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
    raise UserError(f"{path!r} cannot be read: {error}. Export again.") from error


def compare(result: Verification, expected: Mapping[str, float]) -> None:
  """Compares the counts of the formats with each other and with the expected ones.

  >>> result = Verification("val-*", 1000, {"tflite": 990}, {}, 0.0, {})
  >>> compare(result, {"top1": 0.992})

  Raises:
    UserError: If any two differ by more than `TOLERANCE` of the images, or originals by
      more than `ORIGINALS_TOLERANCE`.
  """
  for metric, counts in (("top1", result.top1), ("top5", result.top5)):
    known = dict(counts)
    if metric in expected:
      known["the run's evaluation"] = round(expected[metric] * result.num_examples)
    gap = max(known.values(), default=0) - min(known.values(), default=0)
    if gap > TOLERANCE * result.num_examples:
      found = ", ".join(f"{name} {count}" for name, count in known.items())
      raise UserError(
        f"what was exported is not what was evaluated: correct ({metric}) of "
        f"{result.num_examples} images: {found}; they may differ by {TOLERANCE:.1%}. "
        "Do not use this export. Are the images those of the run's evaluation "
        "(task.validation_data.input_path), with the same preprocessing?"
      )
  differing = [k for k, v in result.originals.items() if v > ORIGINALS_TOLERANCE]
  if differing:
    raise UserError(
      f"the export reads image files otherwise than training saw them: "
      f"{', '.join(differing)}. Do not use this export for such files; convert them "
      "to RGB first, as preparation does."
    )


def verify(export_dir: str, input_path: str) -> Verification:
  """Runs an export over records and originals; writes `RESULT` and `PREDICTIONS`.

  Raises:
    UserError: If the folder holds no export, or there are no records.
  """
  models, content = load(export_dir), metadata.read(export_dir)
  labels, probabilities = predict(models, input_path, content["data"])
  originals = compare_originals(models, content["image_decoding"]["significant_bits"])
  result = evaluate(labels, probabilities, input_path, originals)
  with files.atomic_write(os.path.join(export_dir, PREDICTIONS), "wb") as file:
    np.savez(file, labels=labels, **probabilities)
  with files.atomic_write(os.path.join(export_dir, RESULT)) as file:
    json.dump(dataclasses.asdict(result), file, indent=2)
  return result


def predict(
  models: Mapping[str, Predict], input_path: str, fields: Mapping[str, str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Runs every format over all records.

  Args:
    models: Formats, as `exported_models.load` returns them.
    input_path: Pattern of TFRecords.
    fields: Names of their features, as `encoded_examples` takes them.

  Returns:
    The labels, `[n]`, and the probabilities by format, `[n, num_classes]`.

  Raises:
    UserError: If there are no records.
  """
  records = record_files.match_files(input_path)
  total = record_files.count_examples(records)
  labels: list[np.ndarray] = []
  probabilities: dict[str, list[np.ndarray]] = {name: [] for name in models}
  with Progress(total, "image", "check export") as progress:
    for encoded, batch_labels in encoded_examples.read_examples(records, fields):
      labels.append(batch_labels)
      for name, run in models.items():
        probabilities[name].append(run(encoded)["probs"])
      progress.update_to(sum(map(len, labels)))
  return np.concatenate(labels), {
    n: np.concatenate(p) for n, p in probabilities.items()
  }


def compare_originals(
  models: Mapping[str, Predict], significant_bits: int
) -> dict[str, float]:
  """Runs files of each kind that preparation converts as they are, and prepared.

  Args:
    models: Formats, as `exported_models.load` returns them.
    significant_bits: Bits that 16-bit images use, as the data set was prepared.

  Returns:
    The largest difference of a logit, over all formats and as a fraction of the logits'
    range, by kind of file.
  """
  differences = {}
  for kind, original in sample_images.sample_images().items():
    prepared = images.read(original, significant_bits=significant_bits)
    if prepared.format == "JPEG":  # lossy: never equal
      continue
    pair, found = tf.constant([original, prepared.encoded]), []
    for run in models.values():
      logits = run(pair)["logits"]
      found.append(np.abs(logits[0] - logits[1]).max() / max(np.ptp(logits), 1e-6))
    differences[kind] = float(max(found))
  return differences


def evaluate(
  labels: np.ndarray,
  probabilities: Mapping[str, np.ndarray],
  input_path: str,
  originals: Mapping[str, float],
) -> Verification:
  """Counts what is correct.

  Args:
    labels: True classes, `[n]`.
    probabilities: Predictions by format, `[n, num_classes]`.
    input_path: Pattern of the TFRecords.
    originals: What `compare_originals` found.
  """
  ranked = {
    name: np.argsort(-values, axis=1, kind="stable") == labels[:, np.newaxis]
    for name, values in probabilities.items()
  }
  top1, top5 = (
    {name: int(hits[:, :k].sum()) for name, hits in ranked.items()} for k in (1, 5)
  )
  difference = float(np.ptp(np.stack(list(probabilities.values())), axis=0).max())
  return Verification(input_path, len(labels), top1, top5, difference, dict(originals))
