"""What a source offers to be prepared, whatever it is read from."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mnv2_hpu.data_preparation.images import EncodedImage


class SourceImage(NamedTuple):
  """One image of a source.

  Attributes:
    path: Its name in reports, relative to the input, `/` between parts.
    label: Its class, an index of `Listing.label_names`.
    archive: File of the input that holds it among others; empty where `path` is a
      file.
    offset: Byte of the archive at which it starts.
    size: Its bytes in the archive.
  """

  path: str
  label: int
  archive: str = ""
  offset: int = 0
  size: int = 0


@dataclasses.dataclass(frozen=True)
class SourceOptions:
  """What is requested of a source.

  Attributes:
    input_dir: Folder of its files.
    validation_fraction: Fraction of each class to hold out, where the input has no
      validation split of its own.
    seed: Seed of that choice.
    tfds_name: Name of the data set, for the source `tfds`.
    tfds_train_split: Its split to train on.
  """

  input_dir: str
  validation_fraction: float = 0.1
  seed: int = 0
  tfds_name: str = ""
  tfds_train_split: str = "train"


@dataclasses.dataclass(frozen=True)
class Listing:
  """Everything that is known of a source before any image is read.

  A source of another kind, boxes or masks for instance, brings a `serialize` of its
  own; what the images are annotated with can be found by their path.

  Attributes:
    source: Its name in `sources.SOURCES`.
    label_names: Name of each class; the index is the label.
    splits: Images by split, in a fixed order; `train` comes first.
    read: Returns the bytes of an image; picklable, raises OSError, or BadImageError.
    serialize: Returns the record of an image, given its class's name; picklable.
    validation_fraction: Fraction that was held out; None where the split was given.
    checksum: SHA-256 over path and size of every input.
    skipped: `{"file", "reason"}` of what was left out already.
    warnings: What else people should know, a line each.
    jpeg_only: Whether readers of this layout expect every image to be a JPEG.
    num_shards: Usual number of files by split; chosen by size for those not named.
  """

  source: str
  label_names: Sequence[str]
  splits: Mapping[str, Sequence[SourceImage]]
  read: Callable[[SourceImage], bytes]
  serialize: Callable[[EncodedImage, SourceImage, str], bytes]
  validation_fraction: float | None
  checksum: str
  skipped: Sequence[Mapping[str, str]] = ()
  warnings: Sequence[str] = ()
  jpeg_only: bool = False
  num_shards: Mapping[str, int] = dataclasses.field(default_factory=dict)

  @property
  def num_images(self) -> int:
    """Images in all splits."""
    return sum(len(images) for images in self.splits.values())


class Checksum:
  r"""SHA-256 over (path, size in bytes), in the order they are added.

  >>> checksum = Checksum()
  >>> checksum.add("cat/1.jpg", 1024)
  >>> checksum.hexdigest() == hashlib.sha256(b"cat/1.jpg\0001024\n").hexdigest()
  True
  """

  def __init__(self) -> None:
    self._hash = hashlib.sha256()

  def add(self, path: str, size: int) -> None:
    """Adds one input file."""
    name = path.encode("utf-8", errors="surrogateescape")
    self._hash.update(b"%s\0%d\n" % (name, size))

  def hexdigest(self) -> str:
    """Returns the checksum as 64 hexadecimal digits."""
    return self._hash.hexdigest()
