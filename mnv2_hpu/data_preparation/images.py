"""An image file's bytes, checked, and re-encoded only where readers would fail.

Baseline and progressive JPEG (grey or RGB) and PNG (8 bits, grey or RGB) pass through
unchanged: TensorFlow's decoders read them as everybody else does. Everything else is
re-encoded with the pixels that the export sees in the same file (see
`dataloaders.image_decoding`), what was lossless as PNG, what was lossy as JPEG of
quality 95; where a layout holds JPEGs alone, everything as such a JPEG. The format is
judged by the content, never by the file's name.
"""

import dataclasses
import io
import struct
import warnings

import numpy as np
from PIL import Image, ImageFile

PIXEL_LIMIT = 89_478_485
"""Maximum pixels of an image: a quarter GiB at 3 bytes each, Pillow's own limit."""

_READ_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
_LOSSY_FORMATS = ("JPEG", "WEBP")
_JPEG_QUALITY = 95
_STORED_MODES = ("L", "RGB")
_JPEG_END = b"\xff\xd9"
_PNG_HEADER = struct.Struct(">8xI4sIIBB")  # length, IHDR, width, height, bits, color
_PNG_END = b"IEND\xaeB`\x82"
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
  """

  encoded: bytes
  format: str
  height: int
  width: int
  channels: int
  converted: str = ""

  @property
  def colorspace(self) -> str:
    """`RGB` or `Grayscale`."""
    return "RGB" if self.channels == 3 else "Grayscale"


def read(data: bytes, jpeg_only: bool = False) -> EncodedImage:
  """Checks an image file and returns what to store.

  The pixels of a file that ends as its format demands are not decoded, which is what
  makes preparation quick; a bit flipped inside one is found by `verify_data --deep`.

  Args:
    data: Content of the file.
    jpeg_only: Whether a PNG is converted too.

  Raises:
    BadImageError: The file is empty, no image, truncated, corrupt, or has more than
      `PIXEL_LIMIT` pixels.
  """
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of corrupt metadata, which nobody reads
    with _open(data) as image:
      reason = _why_convert(image, data, jpeg_only)
      if reason:
        return _convert(image, data, reason, jpeg_only)
      if not _is_complete(image, data):
        _decode(image)
      return _stored(image, data, _family(image), "")


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
  # A multi-picture JPEG (of a phone) is a JPEG followed by further ones.
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


def _decode(image: ImageFile.ImageFile) -> Image.Image:
  """Returns the decoded image; of a GIF the first frame, without its canvas.

  Raises:
    BadImageError: It cannot be decoded.
  """
  try:
    frame = image.tile[0].extents if image.format == "GIF" else None
    image.load()
    return image.crop(frame) if frame else image
  except _PILLOW_ERRORS as error:
    raise BadImageError(f"truncated or corrupt: {error}") from None


def _convert(
  image: ImageFile.ImageFile, data: bytes, reason: str, jpeg_only: bool
) -> EncodedImage:
  """Re-encodes an image as 8-bit RGB."""
  decoded = _decode(image)
  try:
    rgb = _decode_png(data) if image.format == "PNG" else _to_rgb(decoded)
  except _PILLOW_ERRORS as error:
    raise BadImageError(f"{reason}, and it cannot be converted: {error}") from None
  target = "JPEG" if jpeg_only or _family(image) in _LOSSY_FORMATS else "PNG"
  options = {"quality": _JPEG_QUALITY, "subsampling": 0} if target == "JPEG" else {}
  buffer = io.BytesIO()
  rgb.save(buffer, target, **options)
  return _stored(rgb, buffer.getvalue(), target, reason)


def _decode_png(data: bytes) -> Image.Image:
  """Decodes a PNG as the export does."""
  import tensorflow as tf  # here: most images need no more than their header read

  from mnv2_hpu.dataloaders import image_decoding

  try:
    return Image.fromarray(image_decoding.decode_image(data).numpy())
  except tf.errors.OpError as error:
    raise ValueError(error.message) from None


def _to_rgb(image: Image.Image) -> Image.Image:
  """Composites an image over black, as TensorFlow's decoder of GIF does."""
  if image.mode.startswith("I") or image.mode == "F":
    image = _to_8_bits(image)
  if not image.has_transparency_data:
    return image.convert("RGB")
  rgba = image.convert("RGBA")
  canvas = Image.new("RGB", image.size)
  canvas.paste(rgba, mask=rgba.getchannel("A"))
  return canvas


def _to_8_bits(image: Image.Image) -> Image.Image:
  """Returns 16-bit grey as 8-bit grey: the upper byte, as TensorFlow takes it."""
  values = np.asarray(image)
  if values.dtype.kind == "f" or values.min() < 0 or values.max() > 0xFFFF:
    raise BadImageError(f"pixels of mode {image.mode} are not 8 or 16 bits")
  return Image.fromarray((values >> 8).astype(np.uint8))


def _stored(
  image: Image.Image, encoded: bytes, image_format: str, converted: str
) -> EncodedImage:
  return EncodedImage(
    encoded=encoded,
    format=image_format,
    height=image.height,
    width=image.width,
    channels=len(image.getbands()),
    converted=converted,
  )
