"""Small files of every kind that preparation re-encodes and an export can read.

The check after export sends the files as they are through `image_bytes`, and what
preparation stores of them, and compares. (TIFF, WebP and PPM are re-encoded too, but no
TensorFlow decoder reads them, so an export refuses them.)
"""

import io

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 48  # pixels


def sample_images() -> dict[str, bytes]:
  """Returns the content of a file by kind; pixels, palette and alpha are smooth."""
  y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
  rgb = Image.fromarray(np.stack([6 * y, 5 * x, 3 * y + 2 * x], axis=-1))
  gray = Image.fromarray(6 * y)
  alpha = Image.fromarray(255 - 5 * x)
  rgba, gray_alpha, palette = rgb.copy(), gray.convert("LA"), rgb.quantize(16)
  rgba.putalpha(alpha)
  gray_alpha.putalpha(alpha)
  depths = {bits: Image.fromarray(y.astype(np.uint16) << bits - 6) for bits in (12, 16)}
  return {
    "PNG, RGBA": _encode(rgba),
    "PNG, gray with alpha": _encode(gray_alpha),
    "PNG, palette": _encode(palette),
    "PNG, palette with alpha": _encode(palette, transparency=bytes(range(0, 256, 16))),
    "PNG, a transparent color": _encode(rgb, transparency=(0, 0, 0)),
    "PNG, a transparent gray": _encode(gray, transparency=6),
    "PNG, 1 bit": _encode(gray.convert("1")),
    "PNG, 16 bits": _encode(depths[16]),
    "PNG, 12 of 16 bits": _encode(depths[12]),
    "GIF": _encode(palette, "GIF"),
    "GIF, a transparent color": _encode(palette, "GIF", transparency=3),
    "BMP": _encode(rgb, "BMP"),
    "JPEG, CMYK": _encode(rgb.convert("CMYK"), "JPEG", quality=95),
  }


def _encode(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, image_format, **options)
  return buffer.getvalue()
