"""Finds the images that an annotation file names, in folders or in zip files."""

import itertools
import os
from collections.abc import Iterable, Sequence

from mnv2_hpu.data_preparation.annotations.formats import zip_archive
from mnv2_hpu.data_preparation.input_files import InputFolder
from mnv2_hpu.data_preparation.listing import SourceImage
from mnv2_hpu.errors import UserError, shorten

_NUM_TRIED = 100  # names looked for in a folder before it is taken


class ImageFiles:
  """The images of one place of an input: `find` returns where a name lies."""

  def __init__(self, found: dict[str, SourceImage], place: str) -> None:
    self._found, self._place = found, place

  @classmethod
  def locate(
    cls,
    folder: InputFolder,
    folders: Iterable[str],
    archives: Iterable[str],
    names: Sequence[str],
    annotations: str,
  ) -> "ImageFiles":
    """Returns the images of the archive, or the folder, that holds most of `names`.

    Args:
      folder: The input.
      folders: Folders to look in, relative to the input; the first wins a tie.
      archives: Zip files to look in before.
      names: Names of images, as the annotations give them.
      annotations: Name of the annotation file, for messages.

    Raises:
      UserError: None of the first images lies in any of them.
    """
    for archive in archives:
      if (folder.root / archive).is_file():
        return cls(_in_archive(folder, archive), "")
    tried = list(dict.fromkeys(folders))
    some = list(itertools.islice(names, _NUM_TRIED))

    def hits(place: str) -> int:
      base = folder.root / place
      return base.is_dir() and sum(os.path.isfile(base / _inner(n)) for n in some)

    best = max(tried, key=hits)
    if not hits(best):
      shown = shorten([repr(place or ".") for place in tried])
      raise UserError(
        f"{folder.root} has none of the images that {annotations} lists, such as "
        f"{some[0]!r}: looked in {shown}. Put them into one of these folders."
      )
    found = {
      path: SourceImage(path, size=size) for path, size in folder.files_below(best)
    }
    return cls(found, best)

  def find(self, name: str) -> SourceImage | None:
    """Returns the image of a name, without its annotation; None where it is missing."""
    return self._found.get(os.path.normpath(os.path.join(self._place, _inner(name))))


def _inner(name: str) -> str:
  """Returns a name as a path that cannot lead out of the folder it is looked for in."""
  return os.path.normpath("/" + name.replace("\\", "/")).lstrip("/")


def _in_archive(folder: InputFolder, archive: str) -> dict[str, SourceImage]:
  """Returns the members of a zip, by their path in it and by the ends of that."""
  found: dict[str, SourceImage] = {}
  for member in zip_archive.members(folder.root / archive):
    if member.problem:
      folder.skip(f"{archive}: {member.name}", member.problem)
      continue
    image = SourceImage(
      path=member.name,
      archive=archive,
      offset=member.offset,
      size=member.size,
      inflated_size=member.inflated_size,
    )
    parts = member.name.split("/")
    for start in range(len(parts)):
      found.setdefault("/".join(parts[start:]), image)
  return found
