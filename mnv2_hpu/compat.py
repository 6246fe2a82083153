"""The Keras that the installed Model Garden uses, and the versions of the stack."""

import importlib
from importlib import metadata
from typing import Any

MODEL_GARDEN = "tf-models-official"


def version(distribution: str) -> str | None:
  """Returns the installed version of a distribution, or None where it is absent.

  >>> version("no-such-distribution") is None
  True
  """
  try:
    return metadata.version(distribution)
  except metadata.PackageNotFoundError:
    return None


def _keras_module_name() -> str:
  """Model Garden moved from `tf.keras` to the package `tf_keras` in 2.16."""
  major, minor = (version(MODEL_GARDEN) or "2.15").split(".")[:2]
  return "tf_keras" if (int(major), int(minor)) >= (2, 16) else "tensorflow"


def _import_keras() -> Any:
  module = importlib.import_module(_keras_module_name())
  return module.keras if module.__name__ == "tensorflow" else module


keras = _import_keras()
