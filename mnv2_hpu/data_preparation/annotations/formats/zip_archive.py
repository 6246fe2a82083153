"""Where the members of a zip lie, so that they are read in place, never unpacked."""

import contextlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from mnv2_hpu.errors import UserError

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, bytes of the name and the extra
_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ERRORS = (
  EOFError,
  LookupError,
  NotImplementedError,
  OSError,
  RuntimeError,  # encrypted
  ValueError,
  struct.error,
  zipfile.BadZipFile,
  zlib.error,
)


class Member(NamedTuple):
  """A file in a zip.

  Attributes:
    name: Path in the archive.
    offset: Byte of the archive at which its data start.
    size: Bytes of its data there.
    inflated_size: Bytes that they inflate to; 0 where they are stored as they are.
    problem: Why it must not be used; empty where nothing is wrong.
  """

  name: str
  offset: int
  size: int
  inflated_size: int
  problem: str


def members(path: Path) -> list[Member]:
  """Returns the files of a zip, in the order of its directory; folders are left out.

  Raises:
    UserError: It is no zip, or is cut off or corrupt.
  """
  with _explained(path), path.open("rb") as file, zipfile.ZipFile(file) as archive:
    end = path.stat().st_size
    return [
      _member(file, info, end) for info in archive.infolist() if not info.is_dir()
    ]


def _member(file: IO[bytes], info: zipfile.ZipInfo, end: int) -> Member:
  problem = _find_problem(info)
  file.seek(info.header_offset)
  signature, *lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
  offset = info.header_offset + _LOCAL_HEADER.size + sum(lengths)
  if signature != _SIGNATURE or offset + info.compress_size > end:
    raise zipfile.BadZipFile(f"the header of {info.filename!r} is wrong")
  inflated_size = 0 if info.compress_type == zipfile.ZIP_STORED else info.file_size
  return Member(info.filename, offset, info.compress_size, inflated_size, problem)


def _find_problem(info: zipfile.ZipInfo) -> str:
  if info.filename.startswith("/") or ".." in info.filename.split("/"):
    return "its name leads out of the archive"
  if stat.S_ISLNK(info.external_attr >> 16):
    return "a link, not a file"
  if info.flag_bits & _ENCRYPTED:
    return "encrypted"
  return "" if info.compress_type in _METHODS else "compressed by a rare method"


@contextlib.contextmanager
def opened(path: Path, name: str) -> Iterator[IO[bytes]]:
  """Opens a member for reading from its start to its end, inflated on the way.

  Raises:
    UserError: It cannot be read; the block's reads raise it too.
  """
  with (
    _explained(path),
    zipfile.ZipFile(path) as archive,
    archive.open(name) as file,
  ):
    yield file


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
  try:
    yield
  except UserError:
    raise
  except _ERRORS as error:
    raise UserError(
      f"{path} cannot be read as a zip file: {error}. Download it again: its size is "
      "on the page that it comes from."
    ) from error
