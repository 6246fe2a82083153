"""Masks of an image, a label for each pixel: checked, counted, serialized.

The features are those that Model Garden's `segmentation_input` reads. A mask is stored
as a PNG of one channel of 8 bits, for TensorFlow decodes a palette to its colors.
"""

import dataclasses
import io
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from mnv2_hpu import example_proto, tfrecord
from mnv2_hpu.data_preparation import shards
from mnv2_hpu.data_preparation.images import (
  PIXEL_LIMIT,
  UNDO_ORIENTATION,
  BadImageError,
  EncodedImage,
)
from mnv2_hpu.data_preparation.listing import Record, SourceImage
from mnv2_hpu.errors import shorten

TASK = "segmentation"
IGNORED = 255
PALETTE = "masks have a palette: its indices are the labels"  # as VOC's: no remark
FEW_BITS = "masks have fewer than 8 bits: their values are the labels"
EQUAL_CHANNELS = "masks have equal channels: one of them is taken"
TURNED = "masks are of the upright image, not of its pixels: turned back"
ALL_IGNORED = "masks have the label 255, which is ignored, everywhere"

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">8x4x4sIIBB")  # IHDR, width, height, bits, kind of color
_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_ERRORS = (EOFError, OSError, SyntaxError, ValueError, struct.error, zlib.error)


class Mask(NamedTuple):
  """A decoded mask.

  Attributes:
    labels: Label of each pixel, uint8 `[height, width]`.
    remark: What other than one channel of 8 bits was read; empty where nothing was.
  """

  labels: npt.NDArray[np.uint8]
  remark: str = ""


def decode(data: bytes) -> Mask:
  """Decodes a PNG of labels.

  Args:
    data: Content of the file: a palette, whose indices are the labels, or gray of at
      most 8 bits, whose values are; or colors with equal channels.

  Raises:
    BadImageError: It is no whole PNG, or has colors or 16 bits.
  """
  if not data.startswith(_SIGNATURE) or len(data) < _HEADER.size:
    raise BadImageError("the mask is no PNG, whose labels alone are exact")
  _, width, height, bits, kind = _HEADER.unpack_from(data)
  if width * height > PIXEL_LIMIT:
    raise BadImageError(f"the mask has more than {PIXEL_LIMIT:,} pixels")
  if bits == 16:
    raise BadImageError("the mask has 16 bits a pixel; labels have 8, 0 to 255")
  try:
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
      values = np.asarray(image)
  except (*_ERRORS, Image.DecompressionBombError) as error:
    raise BadImageError(f"the mask is truncated or corrupt: {error}") from None
  if kind == _PALETTE:
    return Mask(values, PALETTE)
  if kind == _GRAY:
    if bits == 8:
      return Mask(values)
    return Mask(values.astype(np.uint8) // np.uint8(_scale(values, bits)), FEW_BITS)
  colors = values[..., : 1 if kind == _GRAY_ALPHA else 3]
  if (colors != colors[..., :1]).any():
    raise BadImageError(
      "the mask has colors, which are no labels: save it with a palette whose indices "
      "are the labels, or as gray of 8 bits"
    )
  return Mask(np.ascontiguousarray(colors[..., 0]), EQUAL_CHANNELS)


def _scale(values: npt.NDArray[Any], bits: int) -> int:
  """Returns by what Pillow has multiplied gray of fewer than 8 bits."""
  return 1 if values.dtype == np.bool_ else 255 // ((1 << bits) - 1)


def encode(labels: npt.NDArray[np.uint8]) -> bytes:
  """Returns a PNG of one channel of 8 bits."""
  buffer = io.BytesIO()
  Image.fromarray(labels).save(buffer, "PNG")
  return buffer.getvalue()


def count(labels: npt.NDArray[np.uint8]) -> dict[int, int]:
  """Returns the number of pixels of each label, without ignored ones."""
  counts = np.bincount(labels.ravel(), minlength=IGNORED + 1)[:IGNORED]
  return {int(label): int(counts[label]) for label in np.flatnonzero(counts)}


def _fit(labels: npt.NDArray[np.uint8], image: EncodedImage) -> npt.NDArray[np.uint8]:
  """Returns the labels of the image's pixels as they are stored.

  Raises:
    BadImageError: The mask has another size than the image.
  """
  if labels.shape == (image.height, image.width):
    return labels
  undo = UNDO_ORIENTATION.get(image.orientation)
  if undo is not None and labels.shape == (image.width, image.height):
    return np.asarray(Image.fromarray(labels).transpose(undo))
  height, width = labels.shape
  raise BadImageError(
    f"the mask is {height} pixels high and {width} wide, the image {image.height} and "
    f"{image.width}"
  )


@dataclasses.dataclass(frozen=True)
class MaskSerializer:
  """Makes the records of a source of masks; picklable.

  An image's `annotation` is its mask, a `SourceImage`.

  Attributes:
    label_names: Name of each class; the index is the label.
    read: Returns the bytes of a mask; raises OSError.
    lookup: Label of each of the 256 values of a mask; empty where they are the labels.
  """

  label_names: Sequence[str]
  read: Callable[[SourceImage], bytes]
  lookup: bytes = b""

  def __call__(self, image: EncodedImage, source: SourceImage, text: str) -> Record:
    """Returns the record of an image; `text` is not used, for it has many classes.

    Raises:
      BadImageError: The mask cannot be read, has another size than the image, or a
        label beyond the classes.
    """
    mask = decode(self._data(source.annotation))
    labels = _fit(mask.labels, image)
    turned = labels is not mask.labels
    if self.lookup:
      labels = np.frombuffer(self.lookup, np.uint8)[labels]
    counts = count(labels)
    beyond = [str(label) for label in counts if label >= len(self.label_names)]
    if beyond:
      raise BadImageError(
        f"the mask has the labels {shorten(beyond)}; the classes have 0 to "
        f"{len(self.label_names) - 1}, and 255 is ignored"
      )
    remarks = {
      mask.remark: mask.remark in (FEW_BITS, EQUAL_CHANNELS),
      TURNED: turned,
      ALL_IGNORED: not counts,
    }
    features = {
      **shards.image_features(image),
      tfrecord.FILENAME_KEY: shards.encode_path(source.path),
      tfrecord.MASK_KEY: encode(labels),
    }
    return Record(
      example_proto.encode_example(features),
      counts,
      remarks={kind: 1 for kind, applies in remarks.items() if applies},
    )

  def _data(self, mask: SourceImage) -> bytes:
    try:
      return self.read(mask)
    except OSError as error:
      reason = error.strerror or error
      raise BadImageError(f"its mask {mask.path} cannot be read: {reason}") from error
