"""Finds and reads the files of an input: folders, files, byte ranges of archives."""

import io
import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnv2_hpu.data_preparation.listing import SourceImage
from mnv2_hpu.errors import UserError

# What operating systems, file servers and desktops leave behind, in lower case: their
# thumbnails would count as images.
_SYSTEM_NAMES = frozenset(
  {
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin",
    "recycler", "system volume information", "__macosx", "icon\r", "lost+found",
    "network trash folder", "temporary items", "@eadir", "@tmp", "@recycle",
    "#recycle", "#snapshot", "@__thumb", "@recently-snapshot", "~snapshot",
    "picasa.ini", "__pycache__",
  }
)  # fmt: skip
_SYSTEM_PREFIXES = (".", "._", "~$", "synophoto_thumb_", "synofile_thumb_")
_MAX_NAMES = 10


def _is_system_name(name: str) -> bool:
  lower = name.lower()
  return lower in _SYSTEM_NAMES or lower.startswith(_SYSTEM_PREFIXES)


class InputFolder:
  """The folders of an input, without what systems leave behind.

  Attributes:
    root: Folder of the input.
    skipped: `{"file", "reason"}` of what was left out.
  """

  def __init__(self, root: str, layout: str) -> None:
    """Looks below `root`; `layout` says what is expected there, for messages."""
    self.root = Path(root)
    self.skipped: list[dict[str, str]] = []
    self._layout = layout
    self._ignored: set[str] = set()

  def entries(self, folder: str = "") -> list[os.DirEntry[str]]:
    """Returns the entries of a folder by name.

    Raises:
      UserError: The folder is missing, a file, or cannot be read.
    """
    path = self.root / folder
    try:
      with os.scandir(path) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
      raise UserError(f"{path} does not exist; {self._layout}.") from None
    except NotADirectoryError:
      raise UserError(f"{path} is a file, not a folder; {self._layout}.") from None
    except OSError as error:
      raise UserError(
        f"{path} cannot be read: {error.strerror}. Make it readable to this user."
      ) from error
    system = {entry.name for entry in found if _is_system_name(entry.name)}
    self._ignored.update(os.path.join(folder, name) for name in system)
    return [entry for entry in found if entry.name not in system]

  def folders(self, folder: str = "") -> list[str]:
    """Returns the names of the folders in a folder, linked ones included."""
    return [entry.name for entry in self.entries(folder) if _is_folder(entry)]

  def files(self, folder: str = "") -> list[str]:
    """Returns the names of the files in a folder."""
    return [entry.name for entry in self.entries(folder) if not _is_folder(entry)]

  def files_below(self, folder: str) -> list[tuple[str, int]]:
    """Returns (path relative to the root, bytes) of all files below, sorted by path.

    Links are followed; a link to a folder that holds it is skipped.
    """
    root = self.root.resolve()
    above = frozenset([root, *root.parents] if folder else root.parents)
    return sorted(self._walk(folder, above))

  def _walk(self, folder: str, above: frozenset[Path]) -> Iterator[tuple[str, int]]:
    real = (self.root / folder).resolve()
    if real in above:
      self.skip(folder, "a link to a folder that holds it")
      return
    for entry in self.entries(folder):
      path = os.path.join(folder, entry.name)
      if _is_folder(entry):
        yield from self._walk(path, above | {real, *real.parents})
      else:
        yield path, _size(entry)

  def skip(self, path: str, reason: str) -> None:
    """Notes that a file or folder is left out."""
    self.skipped.append({"file": path, "reason": reason})

  def warnings(self) -> list[str]:
    """Returns a line on what was ignored, if anything was."""
    if not self._ignored:
      return []
    counts = Counter(sorted(map(os.path.basename, self._ignored)))
    named = counts.most_common(_MAX_NAMES)
    names = ", ".join(f"{name!r} ({count})" for name, count in named)
    return [
      f"{len(self._ignored):,} hidden or system files and folders are ignored, the "
      f"most frequent: {names}"
    ]


def _is_folder(entry: os.DirEntry[str]) -> bool:
  try:
    return entry.is_dir()
  except OSError:  # a link to itself
    return False


def _size(entry: os.DirEntry[str]) -> int:
  try:
    return entry.stat().st_size
  except OSError:  # a link that leads nowhere; reading it is what reports it
    return entry.stat(follow_symlinks=False).st_size


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
    return _inflate(data, image.inflated_size) if image.inflated_size else data

  def __getstate__(self) -> dict[str, Any]:
    """Leaves the open file out."""
    return {**self.__dict__, "_opened": None}


def _inflate(data: bytes, size: int) -> bytes:
  """Returns `size` bytes that a zip file holds compressed.

  Raises:
    OSError: they are corrupt.
  """
  try:
    inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
  except zlib.error as error:
    raise OSError(f"its compressed data are corrupt: {error}") from error
  if len(inflated) != size:
    raise OSError("its compressed data are corrupt: another size than the archive says")
  return inflated


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
    chunks = [os.read(descriptor, status.st_size + 1)]
    if len(chunks[0]) == status.st_size:  # as nearly always
      return chunks[0]
    while chunks[-1]:
      chunks.append(os.read(descriptor, 1 << 20))
    return b"".join(chunks)
  finally:
    os.close(descriptor)
