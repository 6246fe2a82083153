"""Reloads an export in a fresh process and runs it over held-out images.

What is exported has to be what was evaluated: nothing of the process that wrote it is
at hand here, neither the model's code nor its configuration.

`check.json` (counts and differences) and `check.npz` (`labels`, and the probabilities
of every format) are written into the folder of the export.
"""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf

from mnv2_hpu import files
from mnv2_hpu.data_preparation import images
from mnv2_hpu.dataloaders import encoded_examples, record_files
from mnv2_hpu.errors import UserError
from mnv2_hpu.progress import Progress
from mnv2_hpu.serving import check_result, exported_models, metadata, sample_images
from mnv2_hpu.serving.check_result import ResultT
from mnv2_hpu.serving.exported_models import Predict, load

_LATENCY_RUNS = 20


def check_export(
  export_dir: str,
  input_path: str,
  expected: Mapping[str, float] | None = None,
  predicted: np.ndarray | None = None,
) -> check_result.Verification:
  """Verifies an export in a process of its own.

  Args:
    export_dir: Folder that `serving.export` wrote.
    input_path: Pattern of the TFRecords to run it over.
    expected: Accuracies of the run's own evaluation of these images with these
      weights, in [0, 1]: "top1", "top5" or both; None compares the formats only.
    predicted: Classes that the checkpoint itself predicts, `[n]`, in the order of the
      records; None compares the formats with each other.

  Raises:
    UserError: If the export cannot be run, if an accuracy differs by more than it may
      (`compare`), or if an original image file is read otherwise than preparation
      reads it.
  """
  result = in_fresh_process(export_dir, verify, input_path, predicted)
  check_result.compare(result, expected or {})
  return result


def in_fresh_process(
  export_dir: str, check: Callable[..., ResultT], *args: Any
) -> ResultT:
  """Returns what a check of an export returns in a process of its own.

  Args:
    export_dir: Folder that `serving.export` wrote, the first argument of `check`.
    check: Function at the top of a module.
    *args: Further arguments of it.

  Raises:
    UserError: If the process was killed.
  """
  spawn = multiprocessing.get_context("spawn")
  try:
    with futures.ProcessPoolExecutor(1, spawn) as pool:
      return pool.submit(check, export_dir, *args).result()
  except futures.process.BrokenProcessPool as error:
    raise UserError(
      f"the export in {export_dir!r} could not be checked: the process was killed, "
      "perhaps for lack of memory. --nocheck exports all the same."
    ) from error


def verify(
  export_dir: str, input_path: str, predicted: np.ndarray | None = None
) -> check_result.Verification:
  """Runs an export over records and originals; writes `RESULT` and `PREDICTIONS`.

  Args:
    export_dir: Folder that `serving.export` wrote.
    input_path: Pattern of the TFRecords to run it over.
    predicted: As for `check_export`.

  Raises:
    UserError: If the folder holds no export, or there are no records.
  """
  models, content = load(export_dir), metadata.read(export_dir)
  labels, probabilities = predict(models, input_path, content["data"])
  originals = compare_originals(models, content["image_decoding"]["significant_bits"])
  result = evaluate(labels, probabilities, input_path, originals, predicted)
  result = dataclasses.replace(
    result,
    megabytes={name: megabytes(export_dir, name) for name in models},
    latency_ms={name: latency(run) for name, run in models.items()},
  )
  with files.atomic_write(
    os.path.join(export_dir, check_result.PREDICTIONS), "wb"
  ) as file:
    np.savez(file, labels=labels, **probabilities)
  with files.atomic_write(os.path.join(export_dir, check_result.RESULT)) as file:
    json.dump(dataclasses.asdict(result), file, indent=2)
  return result


def megabytes(export_dir: str, name: str) -> float:
  """Returns the size of a format in an export."""
  path = pathlib.Path(export_dir, exported_models.FILES[name])
  parts = [path, *path.rglob("*")]
  return round(sum(p.stat().st_size for p in parts if p.is_file()) / 1e6, 3)


def latency(run: Predict) -> float:
  """Returns the median milliseconds of one encoded image."""
  encoded = tf.constant([sample_images.sample_images()["BMP"]])
  run(encoded)
  seconds = []
  for _ in range(_LATENCY_RUNS):
    start = time.perf_counter()
    run(encoded)
    seconds.append(time.perf_counter() - start)
  return round(1000 * statistics.median(seconds), 2)


def predict(
  models: Mapping[str, Predict],
  input_path: str,
  fields: Mapping[str, str],
  description: str = "check export",
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Runs every format over all records.

  Args:
    models: Formats, as `exported_models.load` returns them.
    input_path: Pattern of TFRecords.
    fields: Names of their features, as `encoded_examples` takes them.
    description: Name of the work, for the progress.

  Returns:
    The labels, `[n]`, and the probabilities by format, `[n, num_classes]`.

  Raises:
    UserError: If there are no records, or an image cannot be read.
  """
  records = record_files.match_files(input_path)
  total = record_files.count_examples(records)
  labels: list[np.ndarray] = []
  probabilities: dict[str, list[np.ndarray]] = {name: [] for name in models}
  with named_errors(input_path), Progress(total, "image", description) as progress:
    for encoded, batch_labels in encoded_examples.read_examples(records, fields):
      labels.append(batch_labels)
      for name, run in models.items():
        probabilities[name].append(run(encoded)["probs"])
      progress.update_to(sum(map(len, labels)))
  return np.concatenate(labels), {
    n: np.concatenate(p) for n, p in probabilities.items()
  }


@contextlib.contextmanager
def named_errors(input_path: str) -> Iterator[None]:
  """Raises a UserError in the place of TensorFlow's for an image of these records."""
  try:
    yield
  except tf.errors.InvalidArgumentError as error:
    reason = re.sub(r"\s+\[\[.*", "", error.message, flags=re.DOTALL).splitlines()[-1]
    raise UserError(
      f"an image of {input_path!r} cannot be predicted: {reason.rstrip('.')}. "
      "`mnv2-verify-data --deep` finds it."
    ) from error


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
  predicted: np.ndarray | None = None,
) -> check_result.Verification:
  """Counts what is correct.

  Args:
    labels: True classes, `[n]`.
    probabilities: Predictions by format, `[n, num_classes]`.
    input_path: Pattern of the TFRecords.
    originals: What `compare_originals` found.
    predicted: As for `check_export`.
  """
  ranked = {
    name: np.argsort(-values, axis=1, kind="stable") == labels[:, np.newaxis]
    for name, values in probabilities.items()
  }
  top1, top5 = (
    {name: int(hits[:, :k].sum()) for name, hits in ranked.items()} for k in (1, 5)
  )
  if next(iter(probabilities.values())).shape[1] <= 5:
    top5 = {}  # the label is always among five
  floats = [
    v for name, v in probabilities.items() if name not in check_result.QUANTIZED
  ]
  difference = float(np.ptp(np.stack(floats), axis=0).max()) if floats else 0.0
  agreement = {}
  if predicted is not None:
    agreement = {
      name: int((values.argmax(-1) == predicted).sum())
      for name, values in probabilities.items()
    }
  return check_result.Verification(
    input_path,
    len(labels),
    top1,
    top5,
    difference,
    dict(originals),
    None if predicted is None else int((predicted == labels).sum()),
    agreement,
  )
