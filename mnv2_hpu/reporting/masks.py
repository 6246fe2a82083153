"""Draws label masks: over images, beside them, and the legend of their colors."""

import colorsys
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

OPACITY = 0.6  # opacity of classes over an image; the background has none
IGNORED = "#ffffff"
_LUMINANCE = np.array([0.299, 0.587, 0.114])
_DARK, _MUTED = "#1f2933", "#616e7c"
# The background, then Okabe and Ito's colors and others that differ from them.
_FIRST = (
  *("#20262c", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7"),
  *("#0072b2", "#7f3fbf", "#8b5a2b", "#a6d854", "#e7298a"),
)
_GOLDEN_RATIO = 0.61803399


def color_of(label: int) -> str:
  """Returns the color of a class, the same everywhere."""
  if label < len(_FIRST):
    return _FIRST[label]
  level = 0.65 + 0.3 * (label % 2)
  rgb = colorsys.hsv_to_rgb(label * _GOLDEN_RATIO % 1, 0.75, level)
  return "#" + "".join(f"{round(255 * value):02x}" for value in rgb)


def palette(ignore_label: int | None = None) -> np.ndarray:
  """Returns the colors of the labels 0 to 255, uint8 `[256, 3]`.

  Args:
    ignore_label: Label that is white; None colors all as classes.
  """
  colors = [
    IGNORED if label == ignore_label else color_of(label) for label in range(256)
  ]
  return np.array([list(bytes.fromhex(color[1:])) for color in colors], np.uint8)


def colored(mask: np.ndarray, ignore_label: int | None = None) -> np.ndarray:
  """Returns a mask in the colors of its classes, uint8 `[height, width, 3]`.

  Args:
    mask: Labels, uint8 `[height, width]`.
    ignore_label: Label that is white, if any.
  """
  return palette(ignore_label)[mask]


def blend(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Returns an image with its classes in color, uint8 `[height, width, 3]`.

  What lies below a color is gray, so that it is the legend's whatever the image's.

  Args:
    image: uint8 `[height, width, 3]`.
    mask: Labels, uint8 `[height, width]`; 0, the background, is left as it is.
  """
  gray = (image @ _LUMINANCE)[..., np.newaxis]
  blended = gray * (1 - OPACITY) + colored(mask) * OPACITY
  is_background = (mask == 0)[..., np.newaxis]
  return np.where(is_background, image, blended + 0.5).astype(np.uint8)


def label_png(mask: np.ndarray) -> bytes:
  """Encodes a mask as the PNG that `--source=masks` reads: labels, with a palette.

  Args:
    mask: Labels, uint8 `[height, width]`.
  """
  image = Image.fromarray(mask)
  image.putpalette(palette().ravel().tolist())
  buffer = io.BytesIO()
  image.save(buffer, "PNG")
  return buffer.getvalue()


def fit(image: np.ndarray, size: int) -> np.ndarray:
  """Returns an image whose longer side has that many pixels.

  Args:
    image: uint8 `[height, width, 3]`.
    size: Longer side in pixels.
  """
  scale = size / max(image.shape[:2])
  height, width = (max(1, round(side * scale)) for side in image.shape[:2])
  method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
  return np.asarray(Image.fromarray(image).resize((width, height), method))


def legend_html(labels: Sequence[int], class_names: Sequence[str]) -> str:
  """Returns the names of classes beside their colors, HTML.

  Args:
    labels: Classes to name.
    class_names: Name of each class.
  """
  entries = "".join(
    f'<span><i style="background: {color_of(label)}"></i>'
    f"{html.escape(class_names[label])}</span>"
    for label in labels
  )
  return f'<div class="legend">{entries}</div>'


def with_legend(
  image: np.ndarray, labels: Sequence[int], class_names: Sequence[str]
) -> np.ndarray:
  """Returns an image with the names and colors of classes below it.

  Args:
    image: uint8 `[height, width, 3]`.
    labels: Classes to name.
    class_names: Name of each class.
  """
  font, margin, swatch, line = ImageFont.load_default(13), 4, 12, 18
  width = image.shape[1]
  places, x, y = [], margin, margin
  for label in labels:
    name = " ".join(class_names[label].split())
    length = swatch + margin + int(font.getlength(name)) + 3 * margin
    if x > margin and x + length > width:
      x, y = margin, y + line
    places.append((x, y, label, name))
    x += length
  canvas = Image.new("RGB", (width, image.shape[0] + y + line), "#ffffff")
  canvas.paste(Image.fromarray(image), (0, 0))
  pen = ImageDraw.Draw(canvas)
  for x, y, label, name in places:
    top = image.shape[0] + y
    pen.rectangle((x, top, x + swatch, top + swatch), color_of(label), _MUTED)
    pen.text((x + swatch + margin, top - 2), name, _DARK, font)
  return np.asarray(canvas)
