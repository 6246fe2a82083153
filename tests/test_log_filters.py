"""What is left out of the log, and that the rest stays."""

import importlib
import logging
import subprocess
import sys

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


_PROGRAM = """
import logging, sys
from absl import app
from mnv2_hpu import log_filters

def log(level, path, message):
  record = logging.LogRecord("absl", level, path, 7, message, (), None)
  logging.getLogger("absl").handle(record)

def main(argv):
  log_filters.move_details_to(argv[1])
  log(logging.INFO, "/x/official/core/train_lib.py", "a detail of theirs")
  log(logging.WARNING, "/x/official/core/train_lib.py", "a warning of theirs")
  log(logging.INFO, log_filters.__file__, "a line of ours")

app.run(main)
"""


def test_details_of_upstream_go_to_a_file_alone(tmp_path):
  log = tmp_path / "new" / "train.log"
  for _ in range(2):  # a training that is resumed appends
    done = subprocess.run(
      [sys.executable, "-c", _PROGRAM, str(log)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
  assert "a detail of theirs" not in done.stderr
  assert done.stderr.count("a warning of theirs") == 1
  assert done.stderr.count("a line of ours") == 1
  messages = [line.partition("] ")[2] for line in log.read_text().splitlines()]
  assert messages == 2 * [
    "a detail of theirs",
    "a warning of theirs",
    "a line of ours",
  ]
