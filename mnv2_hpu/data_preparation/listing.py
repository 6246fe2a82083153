"""What a source offers to be prepared, whatever it is read from."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mnv2_hpu.data_preparation.images import EncodedImage


class SourceImage(NamedTuple):
  """One image of a source.

  Attributes:
    path: what it is called in reports, relative to the input, `/` between parts.
    label: its class, an index of `Listing.label_names`.
    archive: file of the input that holds it among others; empty where `path` is a file.
    offset: byte of the archive at which it starts.
    size: bytes in the archive.
  """

  path: str
  label: int
  archive: str = ""
  offset: int = 0
  size: int = 0


@dataclasses.dataclass(frozen=True)
class SourceOptions:
  """What a source is asked for.

  Attributes:
    input_dir: where its files are.
    validation_fraction: share of each class to hold out, where the input has no
      validation split of its own.
    seed: of that choice.
    tfds_name: the data set, for the source `tfds`.
    tfds_train_split: its split to train on.
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
    source: its name in `sources.SOURCES`.
    label_names: name of each class; the index is the label.
    splits: images by split, in a fixed order; `train` comes first.
    read: returns the bytes of an image; picklable, raises OSError, or BadImageError.
    serialize: returns the record of an image, given its class's name; picklable.
    validation_fraction: share that was held out; None where the split was given.
    checksum: SHA-256 over path and size of every input.
    skipped: `{"file", "reason"}` of what was left out already.
    warnings: What else people should know, a line each.
    jpeg_only: whether readers of this layout expect every image to be a JPEG.
    num_shards: usual number of files by split; chosen by size for those not named.
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
