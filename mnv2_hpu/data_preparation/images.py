"""An image file's bytes, checked, and re-encoded only where readers would fail.

Baseline and progressive JPEG (grey or RGB) and PNG (8 bits, grey or RGB) pass through
unchanged: TensorFlow's decoders read them as everybody else does. Everything else is
re-encoded with the pixels that the export sees in the same file (see
`dataloaders.image_decoding`), what was lossless as PNG, what was lossy as JPEG of
quality 95; where a layout holds JPEGs alone, everything as such a JPEG. The format is
judged by the content, never by the file's name.

An EXIF orientation is ignored in every format, since no decoder in an export reads it:
a network trained on turned images would meet unturned ones when it serves.
"""

import dataclasses
import io
import struct
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin

from mnv2_hpu import jpeg_header

PIXEL_LIMIT = 89_478_485
"""Maximum pixels of an image: a quarter GiB at 3 bytes each, Pillow's own limit."""

_READ_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
_LOSSY_FORMATS = ("JPEG", "WEBP")
_JPEG_QUALITY = 95
_STORED_MODES = ("L", "RGB")
_JPEG_END = b"\xff\xd9"
_PNG_HEADER = struct.Struct(">8xI4sIIBB")  # length, IHDR, width, height, bits, color
_PNG_END = b"IEND\xaeB`\x82"
# Undoes what Pillow does to a TIFF, and to no other format: the stored image from the
# upright one, by the EXIF orientation.
UNDO_ORIENTATION = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_90,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_270,
}
# What Pillow raises for corrupt files, by format and place.
_PILLOW_ERRORS = (
  ArithmeticError,
  EOFError,
  LookupError,
  OSError,
  SyntaxError,
  TypeError,
  ValueError,
  struct.error,
)


class BadImageError(ValueError):
  """Bytes that are not a whole, readable image; the message is the reason."""


@dataclasses.dataclass(frozen=True)
class EncodedImage:
  """An image as it is stored.

  Attributes:
    encoded: JPEG or PNG bytes.
    format: `JPEG` or `PNG`.
    height: Height in pixels.
    width: Width in pixels.
    channels: Number of channels, 1 or 3.
    converted: Why it was re-encoded; empty where the bytes are the file's own.
    orientation: EXIF orientation of the file, 1 (upright) to 8; ignored.
    bits_used: Of a file of 16 bits per sample, the bits of its largest sample; else 0.
  """

  encoded: bytes
  format: str
  height: int
  width: int
  channels: int
  converted: str = ""
  orientation: int = 1
  bits_used: int = 0

  @property
  def colorspace(self) -> str:
    """`RGB` or `Grayscale`."""
    return "RGB" if self.channels == 3 else "Grayscale"


def read(
  data: bytes, jpeg_only: bool = False, significant_bits: int = 16
) -> EncodedImage:
  """Checks an image file and returns what to store.

  The pixels of a file that ends as its format demands are not decoded, which is what
  makes preparation quick; a bit flipped inside one is found by `verify_data --deep`.

  Args:
    data: Content of the file.
    jpeg_only: Whether a PNG is converted too.
    significant_bits: Bits that samples of 16 bits use, 8 to 16; the upper eight of
      them are stored.

  Raises:
    BadImageError: The file is empty, no image, truncated, corrupt, or has more than
      `PIXEL_LIMIT` pixels.
  """
  header = jpeg_header.parse(data)
  if header and header.height * header.width <= PIXEL_LIMIT:
    return EncodedImage(data, "JPEG", *header)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # corrupt metadata, which nobody reads
    with _open(data) as image:
      orientation = _orientation(image, data)
      reason = _why_convert(image, data, jpeg_only)
      if not reason and not _is_complete(image, data):
        _decode(image, orientation)
      bits_used = 0
      stored: Image.Image = image
      target = "JPEG" if jpeg_only or _family(image) in _LOSSY_FORMATS else "PNG"
      if reason:
        decoded = _decode(image, orientation)
        try:
          stored, bits_used = _to_rgb(decoded, image, data, significant_bits)
        except _PILLOW_ERRORS as error:
          raise BadImageError(
            f"{reason}, and it cannot be converted: {error}"
          ) from None
        data = _encode(stored, target)
      return EncodedImage(
        encoded=data,
        format=target,
        height=stored.height,
        width=stored.width,
        channels=len(stored.getbands()),
        converted=reason,
        orientation=orientation,
        bits_used=bits_used,
      )


def _open(data: bytes) -> ImageFile.ImageFile:
  """Reads the header of an image of an allowed format and size."""
  if not data:
    raise BadImageError("the file is empty")
  try:
    image = Image.open(io.BytesIO(data), formats=_READ_FORMATS)
  except Image.DecompressionBombError:
    raise BadImageError(f"more than {PIXEL_LIMIT:,} pixels") from None
  except Image.UnidentifiedImageError:
    raise BadImageError(
      f"not an image, or cut off in its header ({', '.join(_READ_FORMATS)} are read)"
    ) from None
  except _PILLOW_ERRORS as error:
    raise BadImageError(f"truncated or corrupt: {error}") from None
  if image.width * image.height > PIXEL_LIMIT:
    raise BadImageError(
      f"{image.width}x{image.height} is more than {PIXEL_LIMIT:,} pixels"
    )
  return image


def _family(image: Image.Image) -> str:
  # A JPEG in the MPO format (of a phone) is a JPEG followed by further ones.
  return "JPEG" if image.format == "MPO" else str(image.format)


def _why_convert(image: Image.Image, data: bytes, jpeg_only: bool) -> str:
  """Returns why these bytes cannot be stored as they are, or an empty string."""
  family = _family(image)
  if family not in ("JPEG", "PNG"):
    return f"{family} is not read by every TensorFlow decoder"
  if family == "PNG" and jpeg_only:
    return "PNG where a JPEG is expected"
  if family == "PNG" and (bits := _PNG_HEADER.unpack_from(data)[4]) != 8:
    return f"PNG of {bits} bits"
  if image.mode not in _STORED_MODES:
    return f"{family} in mode {image.mode}"
  if "transparency" in image.info:
    return f"{family} with a transparent color"
  return ""


def _is_complete(image: Image.Image, data: bytes) -> bool:
  ending = _PNG_END if image.format == "PNG" else _JPEG_END
  return data.endswith(ending)


def _orientation(image: Image.Image, data: bytes) -> int:
  """Returns the EXIF orientation; 1, upright, where there is none."""
  # In a PNG it may follow the pixels, which looking for it decodes.
  may_follow = image.format == "TIFF" or (image.format == "PNG" and b"eXIf" in data)
  if "exif" not in image.info and not may_follow:
    return 1
  try:
    value = image.getexif().get(ExifTags.Base.Orientation)
  except _PILLOW_ERRORS:
    return 1
  return value if value in UNDO_ORIENTATION else 1


def _decode(image: ImageFile.ImageFile, orientation: int) -> Image.Image:
  """Returns the pixels as they are stored; of a GIF the first frame, without canvas.

  Raises:
    BadImageError: They cannot be decoded.
  """
  try:
    frame = image.tile[0].extents if image.format == "GIF" else None
    image.load()
    if image.format == "TIFF" and orientation != 1:
      return image.transpose(UNDO_ORIENTATION[orientation])
    return image.crop(frame) if frame else image
  except _PILLOW_ERRORS as error:
    raise BadImageError(f"truncated or corrupt: {error}") from None


def _encode(image: Image.Image, image_format: str) -> bytes:
  lossy = {"quality": _JPEG_QUALITY, "subsampling": 0}
  buffer = io.BytesIO()
  image.save(buffer, image_format, **(lossy if image_format == "JPEG" else {}))
  return buffer.getvalue()


def _to_rgb(
  decoded: Image.Image, image: Image.Image, data: bytes, significant_bits: int
) -> tuple[Image.Image, int]:
  """Returns an image in RGB, and `EncodedImage.bits_used`.

  Raises:
    ValueError: Its pixels have no 8-bit equivalent.
  """
  if image.format == "PNG":
    return _decode_png(data, significant_bits)
  if decoded.mode.startswith("I") or decoded.mode == "F":
    if image.format == "PPM":  # it states its largest sample, by which Pillow scales
      return _scale_gray(np.asarray(decoded), 16)[0], 0
    return _scale_gray(np.asarray(decoded), significant_bits)
  bits_used = 0
  if isinstance(image, TiffImagePlugin.TiffImageFile) and 16 in image.tag_v2.get(
    TiffImagePlugin.BITSPERSAMPLE, ()
  ):
    if significant_bits != 16:  # Pillow reads the upper byte alone
      raise ValueError("of 16-bit colors only PNG can be scaled")
    bits_used = 8 + int(np.max(np.asarray(decoded)[..., :3])).bit_length()
  return _composite(decoded), bits_used


def _decode_png(data: bytes, significant_bits: int) -> tuple[Image.Image, int]:
  """Decodes a PNG by the function that the export has."""
  import tensorflow as tf  # here: of most images only the header is read

  from mnv2_hpu.dataloaders import image_decoding

  try:
    pixels = image_decoding.decode_image(data, significant_bits).numpy()
    bits_used = 0
    if data[image_decoding.PNG_DEPTH_OFFSET] == 16:
      samples = tf.io.decode_png(data, channels=3, dtype=tf.uint16).numpy()
      bits_used = int(samples.max()).bit_length()
  except tf.errors.OpError as error:
    raise ValueError(error.message) from None
  return Image.fromarray(pixels), bits_used


def _scale_gray(
  samples: npt.NDArray[Any], significant_bits: int
) -> tuple[Image.Image, int]:
  if samples.dtype.kind == "f" or samples.min() < 0 or samples.max() > 0xFFFF:
    raise ValueError("its pixels are not 8 or 16 bits")
  pixels = np.minimum(samples >> (significant_bits - 8), 255).astype(np.uint8)
  return Image.fromarray(pixels), int(samples.max()).bit_length()


def _composite(image: Image.Image) -> Image.Image:
  """Composites an image over black, as TensorFlow's decoder of GIF does."""
  if not image.has_transparency_data:
    return image.convert("RGB")
  rgba = image.convert("RGBA")
  canvas = Image.new("RGB", image.size)
  canvas.paste(rgba, mask=rgba.getchannel("A"))
  return canvas
