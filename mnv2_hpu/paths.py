"""Paths as users write them: `~` is a home folder, and `scheme://` a file system."""

import os
import re

from mnv2_hpu.errors import UserError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def resolve(path: str, name: str = "", *, local: bool = False) -> str:
  """Returns a path in the form that TensorFlow and Python open.

  Args:
    path: File, folder or pattern, as it was written in a flag or in gin.
    name: Flag or field that it was given as, for messages.
    local: Whether it must be on this machine's (or a mounted) file system.

  Raises:
    UserError: If the path is empty, starts with `~` of an unknown user, or is a URL
      that cannot be opened.

  >>> resolve("~/data") == os.path.expanduser("~/data")
  True
  >>> resolve("s3://bucket/data", local=True)
  Traceback (most recent call last):
    ...
  mnv2_hpu.errors.UserError: 's3://bucket/data' is a URL; this must be a path ...
  """
  given = f"{name}={path}" if name else repr(path)
  if not path.strip():
    raise UserError(f"{name or 'the path'} is empty.")
  expanded = os.path.expanduser(path)
  if expanded.startswith("~"):
    raise UserError(
      f"{given} names the home folder of a user that does not exist. Write ./~… where "
      "the name itself begins with ~."
    )
  if match := _SCHEME.match(expanded):
    if local:
      raise UserError(
        f"{given} is a URL; this must be a path on this machine or on a mounted file "
        "system."
      )
    _check_scheme(given, match[1])
  return expanded


def _check_scheme(given: str, scheme: str) -> None:
  import tensorflow as tf  # only here: other paths must not cost its import

  known = sorted(filter(None, tf.io.gfile.get_registered_schemes()))
  if scheme not in known:
    raise UserError(
      f"{given}: TensorFlow has no file system for {scheme}:// here, only for "
      f"{', '.join(f'{name}://' for name in known)} and local paths."
    )


def nearest_existing(folder: str) -> str:
  """Returns the absolute path of a local folder, or of the nearest one that exists."""
  existing = os.path.abspath(folder)
  while not os.path.lexists(existing):
    existing = os.path.dirname(existing)
  return existing


def check_writable(folder: str) -> None:
  """Checks that a local folder can be written, or made where it is missing.

  Raises:
    UserError: If it is a file, lies below one, or may not be written.
  """
  if _SCHEME.match(folder):
    return
  existing = nearest_existing(folder)
  where = "" if existing == os.path.abspath(folder) else f"{existing!r} above it "
  if not os.path.isdir(existing):
    raise UserError(f"{folder!r} cannot be a folder: {where or 'it '}is a file.")
  if not os.access(existing, os.W_OK | os.X_OK):
    raise UserError(f"{folder!r} cannot be written: {where or 'it '}is read-only.")
