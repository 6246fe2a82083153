"""Reloads an export in a fresh process and runs it over held-out images.

What is exported has to be what was evaluated: nothing of the process that wrote it is
at hand here, neither the model's code nor its configuration.

  python -m mnv2_hpu.serving.verify --export_dir=export --input_path='val-*'

writes `check.json` (counts and the largest difference) and `check.npz` (`labels`, and
the probabilities of every format) into the folder of the export.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import mnv2_hpu
from mnv2_hpu.dataloaders import image_decoding, record_files
from mnv2_hpu.errors import UserError
from mnv2_hpu.progress import Progress
from mnv2_hpu.serving import preprocessing

METADATA = "export.json"  # what `serving.export` writes beside the models
RESULT = "check.json"
PREDICTIONS = "check.npz"

# Share of the images by which an export may differ from the run's own evaluation.
TOLERANCE = 0.005
BATCH_SIZE = 64

# Encoded images, as `[n]` strings, to probabilities, `[n, num_classes]`.
Predict = Callable[[tf.Tensor], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Verification:
  """What came out.

  Attributes:
    num_examples: images.
    top1: images whose label has the highest probability, by format.
    top5: images whose label is among the five highest, by format.
    max_difference: the largest absolute difference of a probability between the
      formats; 0 where there is one format.
  """

  num_examples: int
  top1: dict[str, int]
  top5: dict[str, int]
  max_difference: float

  def summary(self, expected: Mapping[str, float]) -> str:
    """Returns the line to print beside the run's own accuracies."""
    right = [f"{name} {count}" for name, count in self.top1.items()]
    if "top1" in expected:
      right.append(f"the run's evaluation {expected['top1'] * self.num_examples:.0f}")
    else:
      right.append("the run logged no evaluation of these weights at this step")
    return (
      f"checked in a fresh process: right of {self.num_examples} images: "
      f"{', '.join(right)}; largest difference of a probability "
      f"{self.max_difference:.1e}"
    )


def check_export(
  export_dir: str, input_path: str, expected: Mapping[str, float] | None = None
) -> Verification:
  """Verifies an export in a process of its own.

  Args:
    export_dir: what `serving.export` wrote.
    input_path: pattern of the TFRecords to run it over.
    expected: accuracies of the run's own evaluation of these images with these
      weights, in [0, 1]: "top1", "top5" or both; None compares the formats only.

  Raises:
    UserError: if the process fails, or if an accuracy differs by more than
      `TOLERANCE` from the one expected or between the formats.
  """
  root = os.path.dirname(os.path.dirname(mnv2_hpu.__file__))
  paths = [root, os.environ.get("PYTHONPATH", "")]
  command = [sys.executable, "-m", __name__, f"--export_dir={export_dir}"]
  done = subprocess.run(
    [*command, f"--input_path={input_path}"],
    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    check=False,
  )
  if done.returncode:
    raise UserError(
      f"the export in {export_dir!r} could not be checked: the process ended with code "
      f"{done.returncode}; what it printed says why. --nocheck exports all the same."
    )
  with open(os.path.join(export_dir, RESULT), encoding="utf-8") as file:
    result = Verification(**json.load(file))
  compare(result, expected or {})
  return result


def compare(result: Verification, expected: Mapping[str, float]) -> None:
  """Compares the counts of the formats with each other and with the expected ones.

  >>> compare(Verification(1000, {"tflite": 990}, {}, 0.0), {"top1": 0.992})

  Raises:
    UserError: if any two differ by more than `TOLERANCE` of the images.
  """
  for metric, counts in (("top1", result.top1), ("top5", result.top5)):
    known = dict(counts)
    if metric in expected:
      known["the run's evaluation"] = round(expected[metric] * result.num_examples)
    gap = max(known.values(), default=0) - min(known.values(), default=0)
    if gap > TOLERANCE * result.num_examples:
      found = ", ".join(f"{name} {count}" for name, count in known.items())
      raise UserError(
        f"what was exported is not what was evaluated: right ({metric}) of "
        f"{result.num_examples} images: {found}; they may differ by {TOLERANCE:.1%}. "
        "Do not use this export. Are the images those of the run's evaluation "
        "(task.validation_data.input_path), with the same preprocessing?"
      )


def predict(
  export_dir: str, input_path: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Runs every format in the folder over all records.

  Args:
    export_dir: what `serving.export` wrote.
    input_path: pattern of TFRecords.

  Returns:
    The labels, `[n]`, and the probabilities by format, `[n, num_classes]`.

  Raises:
    UserError: if the folder holds no export, or there are no records.
  """
  metadata = _metadata(export_dir)
  loaders = {"saved_model": _saved_model, "model.tflite": _tflite}
  formats = {
    name.removeprefix("model."): load(os.path.join(export_dir, name), metadata)
    for name, load in loaders.items()
    if os.path.exists(os.path.join(export_dir, name))
  }
  if not formats:
    raise UserError(f"{export_dir!r} holds none of {', '.join(loaders)}.")
  files = record_files.match_files(input_path)
  total = record_files.count_examples(files)
  labels: list[np.ndarray] = []
  probabilities: dict[str, list[np.ndarray]] = {name: [] for name in formats}
  with Progress(total, "image", "check export") as progress:
    for encoded, batch_labels in read_examples(files, metadata["data"]):
      labels.append(batch_labels)
      for name, run in formats.items():
        probabilities[name].append(run(encoded))
      progress.update_to(sum(map(len, labels)))
  return np.concatenate(labels), {
    n: np.concatenate(p) for n, p in probabilities.items()
  }


def read_examples(
  files: list[str], fields: Mapping[str, str]
) -> Iterator[tuple[tf.Tensor, np.ndarray]]:
  """Yields encoded images, strings `[batch]`, and labels `[batch]`, in file order.

  Args:
    files: TFRecords.
    fields: `image_field_key` and `label_field_key`, the names of the features.
  """
  image_key, label_key = fields["image_field_key"], fields["label_field_key"]
  features = {
    image_key: tf.io.FixedLenFeature([], tf.string),
    label_key: tf.io.FixedLenFeature([], tf.int64),
  }
  for records in tf.data.TFRecordDataset(files).batch(BATCH_SIZE):
    examples = tf.io.parse_example(records, features)
    yield examples[image_key], examples[label_key].numpy()


def evaluate(
  labels: np.ndarray, probabilities: Mapping[str, np.ndarray]
) -> Verification:
  """Counts what is right.

  Args:
    labels: `[n]`.
    probabilities: by format, `[n, num_classes]`.
  """
  top1, top5 = {}, {}
  for name, values in probabilities.items():
    ranked = np.argsort(-values, axis=1, kind="stable")[:, :5] == labels[:, np.newaxis]
    top1[name], top5[name] = int(ranked[:, 0].sum()), int(ranked.sum())
  stacked = np.stack(list(probabilities.values()))
  return Verification(len(labels), top1, top5, float(np.ptp(stacked, axis=0).max()))


def _metadata(export_dir: str) -> dict[str, Any]:
  path = os.path.join(export_dir, METADATA)
  if not os.path.exists(path):
    raise UserError(
      f"{export_dir!r} holds no {METADATA}: it is not a whole export. Write one with "
      "entrypoints/export.py."
    )
  with open(path, encoding="utf-8") as file:
    return json.load(file)


def _saved_model(path: str, metadata: Mapping[str, Any]) -> Predict:
  del metadata  # it needs none
  loaded = tf.saved_model.load(path)
  # Not the signature alone: its variables live as long as `loaded`.
  return lambda encoded: loaded.signatures["image_bytes"](inputs=encoded)[
    "probs"
  ].numpy()


def _tflite(path: str, metadata: Mapping[str, Any]) -> Predict:
  preprocess = preprocessing.from_dict(metadata["preprocessing"])
  significant_bits = metadata["image_decoding"]["significant_bits"]
  threads = len(os.sched_getaffinity(0))
  interpreter = tf.lite.Interpreter(path, num_threads=threads)
  signature = interpreter.get_signature_runner("serving_default")

  @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
  def pixels(encoded: tf.Tensor) -> tf.Tensor:
    image = image_decoding.decode_image(encoded, significant_bits)
    return preprocess.resize(image)[tf.newaxis]

  return lambda encoded: np.concatenate(
    [signature(inputs=pixels(image).numpy())["probs"] for image in encoded]
  )


def main() -> None:
  """Verifies the export that the arguments name; exits with 1 where it cannot."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--export_dir", required=True)
  parser.add_argument("--input_path", required=True)
  arguments = parser.parse_args()
  export_dir = arguments.export_dir
  try:
    labels, probabilities = predict(export_dir, arguments.input_path)
  except UserError as error:
    sys.exit(f"error: {error}")
  np.savez(os.path.join(export_dir, PREDICTIONS), labels=labels, **probabilities)
  path = os.path.join(export_dir, RESULT)
  with open(f"{path}.partial", "w", encoding="utf-8") as file:
    json.dump(dataclasses.asdict(evaluate(labels, probabilities)), file, indent=2)
  os.replace(f"{path}.partial", path)


if __name__ == "__main__":
  main()
