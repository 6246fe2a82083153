"""The stack that is installed, and all that differs between stacks.

A stack is a release of Model Garden with the TensorFlow, Keras and Pythons that it is
tried with here. No other module asks which one it is (`tests/test_house_rules.py`).
"""

import importlib
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

MODEL_GARDEN = "tf-models-official"


class Stack(NamedTuple):
  """What fits one release of Model Garden; requirements/ locks the same.

  Attributes:
    keras: Distribution of the Keras that Model Garden uses.
    pythons: Versions of Python, the preferred one first.
    bounds: Requirements beyond those of this package and of Model Garden.
  """

  keras: str
  pythons: tuple[str, ...]
  bounds: tuple[str, ...]


STACKS = {
  "2.15": Stack(
    keras="keras",
    pythons=("3.10", "3.11"),
    # Later metadata needs protobuf 5, with which TensorFlow 2.15 cannot be imported.
    bounds=(
      "numpy<2",
      "protobuf<5",
      "tensorflow-datasets<4.9.8",
      "tensorflow-metadata<1.16",
    ),
  ),
  "2.20": Stack(
    keras="tf-keras",
    pythons=("3.12", "3.11", "3.13"),
    # Model Garden's COCO metrics call int() on an array, which NumPy 2.4 refuses.
    bounds=("numpy>=2,<2.4",),
  ),
}


KERAS_MODULES = tuple(stack.keras.replace("-", "_") for stack in STACKS.values())


def version(distribution: str) -> str | None:
  """Returns the installed version of a distribution, or None where it is absent.

  >>> version("no-such-distribution") is None
  True
  """
  try:
    return metadata.version(distribution)
  except metadata.PackageNotFoundError:
    return None


def minor(full_version: str) -> str:
  """Returns the first two numbers of a version.

  >>> minor("2.15.0.post1")
  '2.15'
  """
  return ".".join(full_version.split(".")[:2])


def stack() -> str:
  """Returns the key of `STACKS` that fits the installed Model Garden best.

  An untried release counts as the newest stack, which is the likelier to resemble it.
  """
  installed = minor(version(MODEL_GARDEN) or "2.15")
  return installed if installed in STACKS else max(STACKS)


def __getattr__(name: str) -> Any:
  """Imports `keras`, at its first use: the doctor reads `STACKS` without it."""
  if name != "keras":
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  if STACKS[stack()].keras == "tf-keras":
    imported = importlib.import_module("tf_keras")
  else:
    imported = importlib.import_module("tensorflow").keras
  globals()["keras"] = imported
  return imported


def tflite_interpreter(path: str, num_threads: int | None = None) -> Any:
  """Returns an interpreter of a TFLite file: LiteRT's, where Model Garden brings it.

  TensorFlow's own warns from 2.20 on that it will be removed.

  Args:
    path: TFLite file.
    num_threads: Threads that it computes with; by default one.
  """
  if version("ai-edge-litert"):
    module = importlib.import_module("ai_edge_litert.interpreter")
  else:
    module = importlib.import_module("tensorflow").lite
  return module.Interpreter(path, num_threads=num_threads)


def num_data_service_workers(dispatcher: Any) -> int:
  """Returns how many workers a `DispatchServer` has."""
  return dispatcher._num_workers()  # TensorFlow offers nothing public


def as_python_numbers(logs: Any) -> Any:
  """Returns nested metrics with Python's numbers in the place of scalars.

  orbit prints them, and NumPy 2 shows its own as `np.float32(0.5)`. A float is the
  shortest decimal that stands for the same bits, as NumPy 1 shows it.

  >>> as_python_numbers({"loss": np.float32(0.1), "step": np.int64(3), "none": None})
  {'loss': 0.1, 'step': 3, 'none': None}
  """
  if isinstance(logs, dict):
    return {name: as_python_numbers(value) for name, value in logs.items()}
  value = np.asarray(logs)
  if value.ndim or value.dtype.kind not in "fiub":
    return logs
  return float(str(value)) if value.dtype.kind == "f" else value.item()
