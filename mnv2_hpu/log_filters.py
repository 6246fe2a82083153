"""Leaves out what upstream logs twice, or says of itself: each row has its reason.

Warnings and errors of other places, and everything that this project logs, stay.
"""

import contextlib
import functools
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple


class Filter(NamedTuple):
  """Messages that are left out.

  Attributes:
    logger: Name of the logger.
    file: End of the path of the file that logs.
    pattern: What the messages start with, as a regular expression.
    reason: Why nobody misses them.
  """

  logger: str
  file: str
  pattern: str
  reason: str


FILTERS = (
  Filter(
    "absl",
    "checkpoint/functional_saver.py",
    "Sharding callback duration",
    "microseconds of a step of saving that is never the slow one",
  ),
  Filter(
    "absl",
    "saved_model/signature_serialization.py",
    "Function `.+` contains input name",
    "names inside the graph, which no user of a signature sees",
  ),
  Filter(
    "tensorflow",
    "saved_model/builder_impl.py",
    "Assets written to",
    "the export's temporary folder; the command names the final one",
  ),
  Filter(
    "absl",
    "saved_model/fingerprinting_utils.py",
    "Writing fingerprint to",
    "the same temporary folder",
  ),
  Filter(
    "absl", "orbit/controller.py", "", "it prints the same lines on standard output"
  ),
  Filter(
    "absl",
    "core/base_trainer.py",
    "The task did not report validation loss",
    "the loss is one of this project's metrics, weighted by example",
  ),
  Filter(
    "absl",
    "core/train_lib.py",
    "Number of trainable params",
    "the table at the start says it; this number includes what is not trained",
  ),
  Filter(
    "absl",
    "core/train_utils.py",
    "Final experiment parameters",
    "200 lines, which params.yaml in the model folder holds and --dry_run prints",
  ),
  Filter(
    "root",
    "gin/resource_reader.py",
    "Path not found|system_path_file_exists",
    "of each place where gin looks for a file; a file found nowhere is an error",
  ),
  Filter(
    "tensorflow",
    "util/deprecation.py",
    "From ",
    "the deprecated calls of TensorFlow 1 are those of upstream packages",
  ),
)


def _is_kept(row: Filter, record: logging.LogRecord) -> bool:
  from_there = record.pathname.endswith(row.file)
  return not (from_there and re.match(row.pattern, record.getMessage()))


class _LazyFile(logging.FileHandler):
  """A file whose folder is made with the first message."""

  def _open(self) -> Any:
    os.makedirs(os.path.dirname(self.baseFilename), exist_ok=True)
    return super()._open()


def move_details_to(path: str) -> None:
  """Writes all messages to a file; of upstream's, the screen keeps warnings and errors.

  Args:
    path: File to append to; its folder may not exist yet.
  """
  file = _LazyFile(path, delay=True, encoding="utf-8")
  file.setFormatter(
    logging.Formatter("%(asctime)s %(levelname)s %(filename)s:%(lineno)d] %(message)s")
  )
  for name in ("", *{row.logger for row in FILTERS}):
    for handler in logging.getLogger(name).handlers:
      handler.addFilter(_is_for_the_screen)
  logging.getLogger().addHandler(file)
  logging.getLogger().setLevel(logging.INFO)


def _is_for_the_screen(record: logging.LogRecord) -> bool:
  is_ours = os.path.dirname(__file__) in record.pathname
  return is_ours or record.levelno >= logging.WARNING


@functools.cache
def install() -> None:
  """Filters the loggers named in `FILTERS`. Idempotent."""
  for row in FILTERS:
    logging.getLogger(row.logger).addFilter(functools.partial(_is_kept, row))


@contextlib.contextmanager
def captured_native_stderr() -> Iterator[None]:
  """Shows what native code writes to standard error only if the block fails.

  TFLite's converter lists the operations it kept, whatever the log level.
  """
  sys.stderr.flush()
  stderr = os.dup(2)
  with tempfile.TemporaryFile() as captured:
    os.dup2(captured.fileno(), 2)
    try:
      yield
    except BaseException:
      captured.seek(0)
      os.write(stderr, captured.read())
      raise
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)
