"""What a source offers to be prepared, and which of it is held out."""

import contextlib
import dataclasses
import hashlib
import math
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from mnv2_hpu.data_preparation.images import EncodedImage
from mnv2_hpu.errors import UserError

T = TypeVar("T")


class SourceImage(NamedTuple):
  """One image of a source.

  Attributes:
    path: Its name in reports, relative to the input, `/` between parts.
    label: Its class, an index of `Listing.label_names`.
    archive: File of the input that holds it among others; empty where `path` is a
      file.
    offset: Byte of the archive at which it starts.
    size: Its bytes in the archive.
    inflated_size: Bytes that these inflate to; 0 where they are stored as they are.
    annotation: What `Listing.serialize` of an annotated source needs to know of it;
      picklable.
  """

  path: str
  label: int = 0
  archive: str = ""
  offset: int = 0
  size: int = 0
  inflated_size: int = 0
  annotation: Any = None


class Record(NamedTuple):
  """The record of an image, and what is counted of it.

  Attributes:
    data: Serialized `tf.train.Example`.
    counts: Examples, boxes or pixels that it adds to each label.
    dropped: Number of annotations left out, by the reason; `strict` stops at them.
    remarks: Number of annotations that are kept and people should know of, by kind.
  """

  data: bytes
  counts: Mapping[int, int]
  dropped: Mapping[str, int] = {}
  remarks: Mapping[str, int] = {}


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
    keep_category_ids: Whether labels are the category ids of a source of boxes, in
      place of 1 to the number of categories.
  """

  input_dir: str
  validation_fraction: float = 0.1
  seed: int = 0
  tfds_name: str = ""
  tfds_train_split: str = "train"
  keep_category_ids: bool = False


@dataclasses.dataclass(frozen=True)
class Listing:
  """Everything that is known of a source before any image is read.

  A source of boxes or masks brings a `serialize` of its own, and its images an
  `annotation`.

  Attributes:
    source: Its name in `prepare.SOURCES`.
    label_names: Name of each class; the index is the label.
    splits: Images by split, in a fixed order; `train` comes first.
    read: Returns the bytes of an image; picklable, raises OSError, or BadImageError.
    serialize: Returns the record of an image, given its class's name; picklable, may
      raise BadImageError.
    validation_fraction: Fraction that was held out; None where the split was given.
    checksum: SHA-256 over path and size of every input.
    skipped: `{"file", "reason"}` of what was left out already.
    warnings: What else people should know, a line each.
    jpeg_only: Whether readers of this layout expect every image to be a JPEG.
    num_shards: Usual number of files by split; chosen by size for those not named.
    task: What the records are for, as `DatasetInfo.task`.
    category_ids: The source's own id of each label, as `DatasetInfo.category_ids`.
    dropped: `(count, first file)` of the annotations left out already, by the reason.
  """

  source: str
  label_names: Sequence[str]
  splits: Mapping[str, Sequence[SourceImage]]
  read: Callable[[SourceImage], bytes]
  serialize: Callable[[EncodedImage, SourceImage, str], Record]
  validation_fraction: float | None
  checksum: str
  skipped: Sequence[Mapping[str, str]] = ()
  warnings: Sequence[str] = ()
  jpeg_only: bool = False
  num_shards: Mapping[str, int] = dataclasses.field(default_factory=dict)
  task: str = "classification"
  category_ids: Sequence[int] = ()
  dropped: Mapping[str, tuple[int, str]] = dataclasses.field(default_factory=dict)

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

  def add_content(self, content: bytes) -> None:
    """Adds what was read of an input whose size does not show a change."""
    self._hash.update(content)

  def hexdigest(self) -> str:
    """Returns the checksum as 64 hexadecimal digits."""
    return self._hash.hexdigest()


def check_fraction(fraction: float) -> None:
  """Raises UserError unless `0 <= fraction < 1`."""
  if not 0 <= fraction < 1:
    raise UserError(
      f"--validation_fraction={fraction} is not a fraction to hold out: "
      "allowed are 0 (no validation split) up to, not including, 1."
    )


def check_names(kind: str, names: Iterable[str]) -> None:
  """Raises UserError unless all names are UTF-8.

  Args:
    kind: What they are names of, for the message.
    names: File names as Python has them: other bytes are surrogates.
  """
  for name in names:
    encoded = name.encode(errors="surrogatepass")
    with contextlib.suppress(UnicodeEncodeError):  # no name of a file, but of a class
      encoded = os.fsencode(name)
    if (shown := encoded.decode(errors="backslashreplace")) != name:
      raise UserError(
        f"the name of the {kind} '{shown}' is not UTF-8, which TensorFlow and "
        "dataset.json need. Rename it."
      )


def held_out(count: int, fraction: float) -> int:
  """Returns how many of a class's `count` images are held out.

  `count * fraction` rounded half up, but at least one image stays in training and,
  where the class has two or more, at least one is held out.

  >>> [held_out(count, 0.2) for count in (1, 2, 10, 178, 183)]
  [0, 1, 2, 36, 37]
  >>> held_out(100, 0.0)
  0
  """
  if fraction == 0 or count < 2:
    return 0
  return min(max(math.floor(count * fraction + 0.5), 1), count - 1)


def stratified(
  by_class: Mapping[str, Sequence[T]], fraction: float, seed: int
) -> tuple[dict[str, list[T]], dict[str, list[T]]]:
  """Splits each class's items into those to train on and those held out.

  What is held out of a class depends on that class's name and items and on the seed
  alone: adding a class moves nothing in the others.

  Args:
    by_class: Items by name of the class, in a fixed order.
    fraction: Fraction to hold out of each class, as `held_out` rounds it.
    seed: Seed of the choice.

  Returns:
    (train, validation): Items by class, each in the order they came in.

  Raises:
    UserError: If the name of a class is not UTF-8.

  >>> train, validation = stratified({"a": [1, 2, 3, 4], "b": [5, 6]}, 0.5, seed=0)
  >>> [len(items) for items in (train["a"], validation["a"], validation["b"])]
  [2, 2, 1]
  """
  check_names("class", by_class)
  train, validation = {}, {}
  for name, items in by_class.items():
    order = random.Random(f"{seed}:{name}").sample(range(len(items)), len(items))
    chosen = set(order[: held_out(len(items), fraction)])
    train[name] = [item for i, item in enumerate(items) if i not in chosen]
    validation[name] = [item for i, item in enumerate(items) if i in chosen]
  return train, validation


def hold_out(
  images: Sequence[SourceImage], fraction: float, seed: int
) -> dict[str, list[SourceImage]]:
  """Splits images that have no one class each into `train` and `validation`."""
  train, validation = stratified({"images": images}, fraction, seed)
  return {"train": train["images"], "validation": validation["images"]}
