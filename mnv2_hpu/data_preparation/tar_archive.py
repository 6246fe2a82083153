"""Where the members of a tar lie, so that they are read in place, never unpacked.

`tarfile` reads the headers. Refused here is what it lets pass: an archive without its
end marker or corrupt in between (it ends quietly there), sizes that lead backwards, and
headers without end. An archive within an archive is a byte range of the same file.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from typing import IO

_MAX_HEADER_SIZE = 1 << 20  # bytes of all headers of one member; a path has 4,096


class TarError(ValueError):
  """An archive that is not whole; the message says where."""


class _ByteRange(io.RawIOBase):
  """Part of a file for `tarfile`; positions are those of the whole file."""

  def __init__(self, file: IO[bytes], start: int, end: int) -> None:
    self._file, self._position, self._end = file, start, end
    self.allowance = _MAX_HEADER_SIZE

  def tell(self) -> int:
    return self._position

  def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
    self._position = position
    return position

  def read(self, size: int = -1) -> bytes:
    self.allowance -= size
    if size < 0 or self.allowance < 0:
      raise TarError(f"corrupt at byte {self._position}: a header of {size} bytes")
    self._file.seek(self._position)
    data = self._file.read(max(min(size, self._end - self._position), 0))
    if len(data) < size:
      raise TarError(f"cut off: it ends at byte {self._end}, without the end marker")
    self._position += size
    return data


def members(
  file: IO[bytes], start: int = 0, end: int | None = None
) -> Iterator[tarfile.TarInfo]:
  """Yields the members of an archive in order; `offset_data` counts from byte 0.

  Args:
    file: Unbuffered binary file.
    start: Byte at which the archive starts.
    end: Byte at which the archive ends; None for the end of the file.

  Raises:
    TarError: The archive is cut off, compressed or corrupt; what precedes was yielded.
  """
  file_size = file.seek(0, os.SEEK_END)
  end = file_size if end is None else end
  if end > file_size:
    raise TarError(f"cut off: it ends at byte {file_size}, not at {end}")
  headers = _ByteRange(file, start, end)
  position = start
  try:
    archive = tarfile.TarFile(fileobj=headers, encoding="utf-8")
    for member in archive:
      _check_size(member, archive.offset, end)
      yield member
      position = archive.offset
      headers.allowance = _MAX_HEADER_SIZE
    headers.seek(position)
    if any(headers.read(tarfile.BLOCKSIZE)):
      raise tarfile.HeaderError("not a header")
  except TarError:
    raise
  # Whatever tarfile's parsing of hostile numbers and of nested headers ends in.
  except (
    tarfile.TarError,
    ArithmeticError,
    LookupError,
    ValueError,
    RecursionError,
  ) as e:
    if position == start:
      raise TarError("not a tar file, or a compressed one") from e
    raise TarError(f"corrupt at byte {position}: {e}") from e


def _check_size(member: tarfile.TarInfo, following: int, end: int) -> None:
  """Checks that a member's content lies between its header and the one that follows."""
  size = member.pax_headers.get("size", "0")
  if not size.isdecimal():
    raise TarError(f"corrupt at byte {member.offset}: a size of {size!r} bytes")
  content_end = member.offset_data + (member.size if is_plain(member) else 0)
  if content_end > end:
    missing = content_end - end
    raise TarError(f"cut off: {member.name!r} needs {missing} bytes after byte {end}")
  if member.size < 0 or following < content_end:
    raise TarError(f"corrupt at byte {member.offset}: a size of {member.size} bytes")
  if "\0" in member.name:  # an extended header is longer than it says
    raise TarError(f"corrupt at byte {member.offset}: the name {member.name!r}")


def is_plain(member: tarfile.TarInfo) -> bool:
  """Returns whether a member is a regular file, and not a sparse one."""
  return member.isreg() and not member.issparse()


def find_problem(member: tarfile.TarInfo) -> str:
  """Returns why a member must not be used; empty for a plain file or a folder."""
  if member.name.startswith("/") or ".." in member.name.split("/"):
    return "its name leads out of the archive"
  if member.islnk() or member.issym():
    return f"a link to {member.linkname!r}, not a file"
  return "" if is_plain(member) or member.isdir() else "not a regular file"
