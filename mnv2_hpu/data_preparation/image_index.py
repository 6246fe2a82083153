"""The list of a split's images, kept on disk: memory does not grow with the data set.

Two files: `<name>` holds one packed row per image, `<name>.starts` the byte at which
each row starts (unsigned, 8 bytes each), so that any row is read by its position.
"""

import array
import contextlib
import dataclasses
import os
import random
import struct
from collections.abc import Sequence
from pathlib import Path

from mnv2_hpu.data_preparation.listing import SourceImage

_ROW = struct.Struct("<iqqHH")  # label, offset, size, bytes of path and of archive
_START = struct.Struct("<Q")
_STARTS = ".starts"


def _encode(text: str) -> bytes:
  return text.encode("utf-8", errors="surrogateescape")


def _decode(data: bytes) -> str:
  return data.decode("utf-8", errors="surrogateescape")


class IndexWriter(contextlib.AbstractContextManager["IndexWriter"]):
  """Writes an index image by image; a context manager."""

  def __init__(self, index_dir: str, name: str) -> None:
    """Opens the two files of the index `name` in a folder."""
    self.index = ImageIndex(str(Path(index_dir, name)))
    # Both are closed by __exit__.
    self._rows = open(self.index.path, "wb")  # noqa: SIM115
    self._starts = open(self.index.path + _STARTS, "wb")  # noqa: SIM115

  def add(self, image: SourceImage) -> None:
    """Adds one image."""
    path, archive = _encode(image.path), _encode(image.archive)
    head = _ROW.pack(image.label, image.offset, image.size, len(path), len(archive))
    self._starts.write(_START.pack(self._rows.tell()))
    self._rows.write(head + path + archive)

  def __exit__(self, *error: object) -> None:
    """Closes the files."""
    self._rows.close()
    self._starts.close()


@dataclasses.dataclass(frozen=True)
class ImageIndex:
  """A written index; `listing.ImageSequence`.

  Attributes:
    path: of its rows.
  """

  path: str

  def __len__(self) -> int:
    """Returns how many images there are."""
    return os.path.getsize(self.path + _STARTS) // _START.size

  def images(self, positions: Sequence[int]) -> list[SourceImage]:
    """Returns the images at these positions."""
    with open(self.path + _STARTS, "rb") as starts, open(self.path, "rb") as rows:
      files = starts.fileno(), rows.fileno()
      return [_read_row(*files, position) for position in positions]


def _read_row(starts: int, rows: int, position: int) -> SourceImage:
  (start,) = _START.unpack(os.pread(starts, _START.size, position * _START.size))
  head = os.pread(rows, _ROW.size, start)
  label, offset, size, path_size, archive_size = _ROW.unpack(head)
  names = os.pread(rows, path_size + archive_size, start + _ROW.size)
  path, archive = names[:path_size], names[path_size:]
  return SourceImage(_decode(path), label, _decode(archive), offset, size)


def write_order(path: str, num_images: int, num_shards: int, seed: str) -> None:
  """Shuffles positions, deals them out to the shards, and writes them shard by shard.

  Four bytes an image, in memory and on disk.
  """
  order = array.array("I", range(num_images))
  random.Random(seed).shuffle(order)
  with open(path, "wb") as file:
    for shard in range(num_shards):
      order[shard::num_shards].tofile(file)


def read_order(
  path: str, num_images: int, num_shards: int, shard: int
) -> "array.array[int]":
  """Returns the positions of one shard's images.

  Args:
    path: written by `write_order` for the same numbers.
    num_images: in all shards.
    num_shards: among which sizes differ by one at most.
    shard: from 0.
  """
  order = array.array("I")
  start, stop = (shard_start(num_images, num_shards, i) for i in (shard, shard + 1))
  with open(path, "rb") as file:
    file.seek(start * order.itemsize)
    order.fromfile(file, stop - start)
  return order


def shard_start(num_images: int, num_shards: int, shard: int) -> int:
  """Returns how many images the shards before this one hold.

  >>> [shard_start(7, 3, shard) for shard in range(4)]
  [0, 3, 5, 7]
  """
  each, more = divmod(num_images, num_shards)
  return shard * each + min(shard, more)
