"""Boxes drawn over images, for a report and for predictions."""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mnv2_hpu.reporting.plots import BLUE, RED

FOUND, WRONG, MISSED = BLUE, RED, "#e69f00"
_MIN_SIDE = 320  # pixels of the longer side of what is drawn


@dataclasses.dataclass(frozen=True)
class DrawnBox:
  """A box to draw.

  Attributes:
    corners: ymin, xmin, ymax, xmax in pixels of the image.
    text: What stands at its corner; "" for nothing.
    color: Such as `FOUND`.
  """

  corners: tuple[float, float, float, float]
  text: str
  color: str = FOUND


def draw(image: np.ndarray, boxes: Sequence[DrawnBox]) -> bytes:
  """Returns a PNG of an image with boxes; a small one is enlarged.

  Args:
    image: uint8 `[height, width, 3]`.
    boxes: What is drawn, the last one above the others.
  """
  picture = Image.fromarray(image)
  scale = max(1, -(-_MIN_SIDE // max(picture.size)))
  picture = picture.resize((picture.width * scale, picture.height * scale))
  canvas = ImageDraw.Draw(picture)
  line = max(2, max(picture.size) // 200)
  font = ImageFont.load_default(size=max(12, max(picture.size) // 28))
  for box in boxes:
    top, left, bottom, right = (value * scale for value in box.corners)
    if right <= left or bottom <= top:
      continue
    canvas.rectangle((left, top, right, bottom), outline=box.color, width=line)
    if box.text:
      _write(canvas, (left, top), box, font)
  buffer = io.BytesIO()
  picture.save(buffer, "PNG")
  return buffer.getvalue()


def _write(
  canvas: ImageDraw.ImageDraw,
  corner: tuple[float, float],
  box: DrawnBox,
  font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
  """Writes a box's text on its color, above the box where there is room."""
  left, top = corner
  _, _, width, height = canvas.textbbox((0, 0), box.text, font=font)
  top = top - height if top >= height else top
  canvas.rectangle((left, top, left + width + 4, top + height), fill=box.color)
  canvas.text((left + 2, top - 1), box.text, fill="white", font=font)
