"""Turns the mistakes that gin and Model Garden report tersely into helpful messages."""

import errno
import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping
from types import TracebackType

from mnv2_hpu import config_errors
from mnv2_hpu.errors import UserError, did_you_mean


def _unknown_experiment(match: re.Match[str]) -> str:
  from official.core import exp_factory

  return (
    f"--experiment={match[1]} is not registered. "
    f"{did_you_mean(match[1], exp_factory._REGISTERED_CONFIGS)}"
  )


def _unknown_config_key(match: re.Match[str]) -> str:
  import importlib

  key, path = match.groups()
  module, _, name = path.rpartition(".")
  config_cls = getattr(importlib.import_module(module), name)
  fields = [f for f in config_cls.__dataclass_fields__ if f != "restrictions"]
  return f"{name} has no field {key!r}. {did_you_mean(key, fields)}"


def _no_data_files(match: re.Match[str]) -> str:
  return (
    f"no data file matches {match['before'] or match['after']!r}. Name the TFRecords "
    "by --params_override=task.train_data.input_path=…,"
    "task.validation_data.input_path=…, or in a --config_file."
  )


# (exception class, pattern of its message, message for the user)
_EXPLANATIONS: tuple[
  tuple[type[Exception], re.Pattern[str], Callable[[re.Match[str]], str]], ...
] = (
  (
    LookupError,
    re.compile(r"collection path (\S+) at position 0 is never registered"),
    _unknown_experiment,
  ),
  (
    KeyError,
    re.compile(r"The key '(\w+)' does not exist in <class '([\w.]+)'>"),
    _unknown_config_key,
  ),
  (  # Model Garden's input reader, and TensorFlow's of Model Garden's own default path
    Exception,
    re.compile(
      r"(?P<before>\S+) does not match any files"
      r"|GCS pattern doesn't have a bucket name: (?P<after>\S+)"
    ),
    _no_data_files,
  ),
  (  # raised in an input pipeline; TensorFlow puts its own error around it
    Exception,
    re.compile(r"\bUserError: (.+?)(?:\nTraceback|\Z)", re.DOTALL),
    lambda match: match[1],
  ),
  (  # by a process of a data service that came after the check at the start
    Exception,
    re.compile(r"Op type not registered 'Mnv2Hpu"),
    lambda match: (
      "a process of the data service lacks the operations in C++. Run `python -m "
      "mnv2_hpu.native.build` on its host and start it again, or train with "
      "MNV2_HPU_NATIVE=0."
    ),
  ),
  (  # raised by a worker of a data service, in `data_service.reader`
    Exception,
    re.compile(r"\[A worker of the data service cannot read (.+?)\]\s"),
    lambda match: (
      f"a worker of the data service cannot read {match[1]!r}. Mount the data under "
      "the same path on all of its hosts."
    ),
  ),
)


# gin appends where a call came from to the message of any error.
_GIN_SUFFIX = "\n  In call to configurable"

# TensorFlow's errors of file systems, by name: without an import of TensorFlow.
_FILE_ERRORS = frozenset(
  {
    "AlreadyExistsError",
    "DataLossError",
    "FailedPreconditionError",
    "NotFoundError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "UnimplementedError",
    "UnknownError",
  }
)


def explain(error: BaseException, paths: Mapping[str, str] | None = None) -> str | None:
  """Returns the message for the user, or None where the error is a defect.

  Args:
    error: Error that ended the program.
    paths: Paths that the user gave, by their flags' names: an error of the file system
      at one of them, or around it, is no defect.

  >>> explain(UserError("batch 7 is not divisible by 2 replicas"))
  'batch 7 is not divisible by 2 replicas'
  >>> explain(RuntimeError("segmentation fault")) is None
  True
  """
  text = str(error).split(_GIN_SUFFIX)[0]
  if isinstance(error, UserError):
    return text
  if isinstance(error, KeyboardInterrupt):
    return "interrupted"
  if isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename:
    return (
      f"the output cannot be written: {error.strerror}. Make room, and run it again."
    )
  for error_class, pattern, message in _EXPLANATIONS:
    match = pattern.search(text) if isinstance(error, error_class) else None
    if match:
      return message(match)
  return config_errors.explain(error) or _explain_file_error(error, paths or {})


def _explain_file_error(error: BaseException, paths: Mapping[str, str]) -> str | None:
  if isinstance(error, OSError) and error.filename and error.strerror:
    text = f"{os.path.abspath(os.fsdecode(error.filename))}; {error.strerror}"
  elif type(error).__name__ in _FILE_ERRORS:
    text = getattr(error, "message", "").partition("\n")[0]
  else:
    return None
  for flag, path in paths.items():
    absolute = pathlib.Path(path).absolute()
    above = "|".join(re.escape(str(folder)) for folder in absolute.parents)
    hidden = absolute.with_name(f".{absolute.name}")  # as `files.atomic_folder` has it
    named = "|".join(re.escape(str(p)) for p in (absolute, hidden))
    # The path, what lies below it, or a whole folder above it.
    if re.search(rf"{named}|({above})(?=[;:,\s]|$)", text):
      return f"--{flag}={path} cannot be used: {text}"
  return None


def install_excepthook(paths: Callable[[], Mapping[str, str]] = dict) -> None:
  """Makes any program, the stock driver included, report explained errors so.

  Errors that `explain` does not know go to the hook that was there before.

  Args:
    paths: Returns the paths that the user gave, for `explain`.
  """
  previous = sys.excepthook
  if getattr(previous, "explains_user_errors", False):
    return

  def hook(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
  ) -> None:
    explanation = explain(error, paths())
    if explanation is None:
      previous(kind, error, trace)
    else:
      print(f"error: {explanation}", file=sys.stderr)

  hook.explains_user_errors = True  # type: ignore[attr-defined]
  sys.excepthook = hook
