"""Finds and reads the files of an input: folders, files, stretches of archives."""

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnv2_hpu.data_preparation.listing import SourceImage
from mnv2_hpu.errors import UserError

# Hidden files, and the indexes that desktop systems leave behind, are no input.
_IGNORED = frozenset({"Thumbs.db", "desktop.ini", "__MACOSX"})


def scan(folder: Path, expected: str) -> list[os.DirEntry[str]]:
  """Returns a folder's visible entries by name.

  Args:
    folder: to look into.
    expected: layout, for the message where it is missing.

  Raises:
    UserError: it is missing, a file, or cannot be read.
  """
  try:
    with os.scandir(folder) as entries:
      visible = [e for e in entries if e.name[0] != "." and e.name not in _IGNORED]
  except FileNotFoundError:
    raise UserError(f"{folder} does not exist; {expected}.") from None
  except NotADirectoryError:
    raise UserError(f"{folder} is a file, not a folder; {expected}.") from None
  except OSError as error:
    raise UserError(
      f"{folder} cannot be read: {error.strerror}. Make it readable to this user."
    ) from error
  return sorted(visible, key=lambda entry: entry.name)


def files_below(root: Path, folder: str, expected: str) -> Iterator[tuple[str, int]]:
  """Yields (path relative to the root, bytes) of each file in a folder and below."""
  for entry in scan(root / folder, expected):
    path = os.path.join(folder, entry.name)
    if entry.is_dir(follow_symlinks=False):
      yield from files_below(root, path, expected)
    else:
      # A link that leads nowhere is listed too: reading it is what reports it.
      yield path, entry.stat(follow_symlinks=entry.is_file()).st_size


class InputReader:
  """Reads images of an input; picklable. Keeps the archive it read last open."""

  def __init__(self, input_dir: str) -> None:
    """Reads below `input_dir`."""
    self._input_dir = input_dir
    self._archive = ""
    self._opened: io.FileIO | None = None

  def __call__(self, image: SourceImage) -> bytes:
    """Returns the bytes of an image.

    Raises:
      OSError: they cannot be read, or are not all there.
    """
    if not image.archive:
      return read_file(os.path.join(self._input_dir, image.path))
    if self._opened is None or self._archive != image.archive:
      self._opened = io.FileIO(os.path.join(self._input_dir, image.archive))
      self._archive = image.archive
    data = os.pread(self._opened.fileno(), image.size, image.offset)
    if len(data) < image.size:
      raise OSError(f"{image.archive} ends before it")
    return data

  def __getstate__(self) -> dict[str, Any]:
    """Leaves the open file out."""
    return {**self.__dict__, "_opened": None}


def read_file(path: str) -> bytes:
  """Returns the content of a regular file; refuses a pipe, which would be waited for.

  Raises:
    OSError: it cannot be read.
  """
  descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
  try:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
      raise OSError("not a regular file")
    parts = [os.read(descriptor, status.st_size + 1)]
    if len(parts[0]) == status.st_size:  # as nearly always
      return parts[0]
    while parts[-1]:
      parts.append(os.read(descriptor, 1 << 20))
    return b"".join(parts)
  finally:
    os.close(descriptor)
