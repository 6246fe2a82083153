"""Draws boxes with their classes on images."""

import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito's colors that stand out from photographs, and a text on them.
COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")
_DARK_TEXT, _LIGHT_TEXT = "#000000", "#ffffff"
_LIGHT_TEXT_ON = {"#009e73", "#d55e00", "#0072b2"}


class Box(NamedTuple):
  """A box to draw.

  Attributes:
    ymin: Its upper edge in pixels of the image, as the next three are.
    xmin: Its left edge.
    ymax: Its lower edge.
    xmax: Its right edge.
    text: What is written above it; empty writes nothing.
    color: A color of Pillow's.
    dashed: Whether its edge is broken.
  """

  ymin: float
  xmin: float
  ymax: float
  xmax: float
  text: str = ""
  color: str = COLORS[0]
  dashed: bool = False


def color_of(label: int) -> str:
  """Returns the color of a class, the same everywhere."""
  return COLORS[label % len(COLORS)]


def draw(
  encoded: bytes,
  boxes: Sequence[Box],
  size: int = 480,
  image_format: str = "PNG",
) -> bytes:
  """Draws boxes on an image; those that come first lie above the others.

  Args:
    encoded: The image, JPEG or PNG.
    boxes: What to draw.
    size: Longer side of the result in pixels: small images are enlarged, so that
      texts can be read.
    image_format: `"PNG"`, or `"JPEG"`, which is smaller.

  Returns:
    The image, encoded.
  """
  with Image.open(io.BytesIO(encoded)) as image:
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    canvas = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
  pen = ImageDraw.Draw(canvas)
  font = ImageFont.load_default(13)
  for box in reversed(boxes):
    _draw_edge(pen, box, scale)
  for box in reversed(boxes):
    if box.text:
      _draw_text(pen, box, scale, font, (width, height))
  buffer = io.BytesIO()
  canvas.save(buffer, image_format)
  return buffer.getvalue()


def _draw_edge(pen: ImageDraw.ImageDraw, box: Box, scale: float) -> None:
  top, left, bottom, right = (scale * edge for edge in box[:4])
  right, bottom = max(left, right - 1), max(top, bottom - 1)
  if not box.dashed:
    pen.rectangle((left, top, right, bottom), outline=box.color, width=2)
    return
  dash, gap = 6, 4
  for y in (top, bottom):
    x = left
    while x < right:
      pen.line((x, y, min(x + dash, right), y), box.color, 2)
      x += dash + gap
  for x in (left, right):
    y = top
    while y < bottom:
      pen.line((x, y, x, min(y + dash, bottom)), box.color, 2)
      y += dash + gap


def _draw_text(
  pen: ImageDraw.ImageDraw,
  box: Box,
  scale: float,
  font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
  sides: tuple[int, int],
) -> None:
  """Writes above the box, or inside where there is no room, never off the image."""
  left, top, right, bottom = pen.textbbox((0, 0), box.text, font=font)
  width, height = right - left + 4, bottom - top + 4
  x = min(max(0, scale * box.xmin), max(0, sides[0] - width))
  y = scale * box.ymin - height
  if y < 0:
    y = min(max(0, scale * box.ymin), max(0, sides[1] - height))
  pen.rectangle((x, y, x + width, y + height), fill=box.color)
  color = _LIGHT_TEXT if box.color in _LIGHT_TEXT_ON else _DARK_TEXT
  pen.text((x + 2 - left, y + 2 - top), box.text, fill=color, font=font)
