"""What is left out of the log, and that the rest stays."""

import importlib
import logging

import pytest

from mnv2_hpu import log_filters

log_filters.install()


@pytest.mark.parametrize("row", log_filters.FILTERS, ids=lambda row: row.file)
def test_upstream_still_logs_from_there(row):
  # A file that moved would let the noise in again.
  package = {"core": "official.core"} | {
    name: f"tensorflow.python.{name}" for name in ("checkpoint", "saved_model", "util")
  }
  first, _, module = row.file.removesuffix(".py").partition("/")
  name = f"{package.get(first, first)}.{module}"

  assert importlib.import_module(name).__file__.endswith(row.file)


@pytest.mark.parametrize(
  ("logger", "path", "message", "is_kept"),
  [
    ("absl", "/x/orbit/controller.py", "train | step: 8", False),
    (
      "absl",
      "/x/core/base_trainer.py",
      "The task did not report validation loss",
      False,
    ),
    ("absl", "/x/core/base_trainer.py", "Conflict between the log keys", True),
    ("absl", "/x/mnv2_hpu/core/trainer.py", "train | step: 8", True),
    ("tensorflow", "/x/util/deprecation.py", "From a: b is deprecated", False),
    ("tensorflow", "/x/training/saver.py", "From a: b is deprecated", True),
  ],
)
def test_only_what_is_named_is_left_out(logger, path, message, is_kept):
  record = logging.LogRecord(logger, logging.WARNING, path, 1, message, (), None)

  assert bool(logging.getLogger(logger).filter(record)) == is_kept
