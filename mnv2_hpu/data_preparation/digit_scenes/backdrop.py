"""What lies behind the digits of a scene: a textured ground, strokes and shapes."""

import colorsys
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

_SCALE = 2  # drawn larger and reduced, so that edges are smooth
_TEXTURES = (3, 6, 12, 40)  # cells of noise across a scene
_STRENGTH = (18.0, 10.0, 8.0, 5.0)  # standard deviations, in levels of 0..255
_SHAPES = (3, 9)  # shapes of a scene, both included
_MIN_CONTRAST = 110.0  # between an ink's luma and the ground's, in levels
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


class Backdrop(NamedTuple):
  """The ground of a scene.

  Attributes:
    pixels: RGB image, uint8 `[height, width, 3]`.
    noise: Standard deviation of the noise that the whole scene has, in levels.
  """

  pixels: npt.NDArray[np.uint8]
  noise: float


def draw(rng: np.random.Generator, size: tuple[int, int]) -> Backdrop:
  """Draws a ground of `size`, height and width in pixels."""
  large = (size[1] * _SCALE, size[0] * _SCALE)
  hue, lightness = rng.uniform(0, 360), rng.uniform(15, 45)
  image = _textured(rng, hue, lightness, large)
  canvas = ImageDraw.Draw(image)
  for _ in range(rng.integers(_SHAPES[0], _SHAPES[1] + 1)):
    color = _color(
      hue + rng.normal(0, 50), rng.uniform(10, 60), lightness + rng.normal(0, 16)
    )
    shape = _KINDS[rng.integers(len(_KINDS))]
    shape(rng, canvas, np.array(large), color)
  return Backdrop(np.asarray(image.reduce(_SCALE)), rng.uniform(1, 6))


def contrasting_color(
  rng: np.random.Generator, ground: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
  """Returns an ink, `[3]` of 0..255, that is read well on a ground of this color."""
  luma = float(ground @ _LUMA)
  wanted = rng.uniform(min(luma + _MIN_CONTRAST, 250), 255)
  pure = np.array(_color(rng.uniform(0, 360), rng.uniform(0, 80), 50), np.float32)
  own = float(pure @ _LUMA)
  # Mixed with black or white up to the luma that is wanted.
  if own >= wanted:
    return pure * (wanted / own)
  return 255 - (255 - pure) * ((255 - wanted) / (255 - own))


def _color(hue: float, saturation: float, lightness: float) -> tuple[int, int, int]:
  lightness = min(max(lightness, 8), 94)
  rgb = colorsys.hls_to_rgb(hue / 360 % 1, lightness / 100, saturation / 100)
  return int(rgb[0] * 255), int(rgb[1] * 255), int(rgb[2] * 255)


def _textured(
  rng: np.random.Generator, hue: float, lightness: float, size: tuple[int, int]
) -> Image.Image:
  """Returns a gradient between two related colors, under noise of several scales."""
  ends = [
    _color(hue + turn, rng.uniform(8, 45), lightness + shift)
    for turn, shift in ((0.0, -7.0), (rng.normal(0, 40), 7.0))
  ]
  corners = np.array(ends, np.float32)[rng.integers(0, 2, (2, 2))]
  side = _TEXTURES[-1]
  texture = np.zeros((side, side), np.float32)
  for cells, strength in zip(_TEXTURES, _STRENGTH, strict=True):
    noise = rng.normal(0, strength * rng.uniform(0.2, 1), (cells, cells))
    texture += _resized(noise.astype(np.float32), side)
  channels = [_resized(corners[..., channel], side) + texture for channel in range(3)]
  pixels = np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)
  return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)


def _resized(values: npt.NDArray[np.float32], side: int) -> npt.NDArray[np.float32]:
  image = Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC)
  return np.asarray(image)


def _points(
  rng: np.random.Generator, size: npt.NDArray[np.int64], count: int
) -> list[tuple[float, float]]:
  return [tuple(point) for point in rng.uniform(-0.1, 1.1, (count, 2)) * size]


def _draw_wave(
  rng: np.random.Generator,
  canvas: ImageDraw.ImageDraw,
  size: npt.NDArray[np.int64],
  color: tuple[int, int, int],
) -> None:
  """Draws a wavy stroke across much of the scene, of the width of a digit's."""
  start, end = np.array(_points(rng, size, 2))
  along = np.linspace(0, 1, 24)[:, None]
  normal = np.array([start[1] - end[1], end[0] - start[0]])
  swing = rng.uniform(0, 0.12) * np.sin(along * rng.uniform(3, 16) + rng.uniform(0, 6))
  points = start + (end - start) * along + normal * swing
  width = int(rng.uniform(0.01, 0.04) * size.min())
  canvas.line([tuple(point) for point in points], color, max(width, 1), "curve")


def _draw_polygon(
  rng: np.random.Generator,
  canvas: ImageDraw.ImageDraw,
  size: npt.NDArray[np.int64],
  color: tuple[int, int, int],
) -> None:
  """Draws a filled shape of three to six corners."""
  center = np.array(_points(rng, size, 1)[0])
  angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
  radii = rng.uniform(0.04, 0.2, len(angles)) * size.min()
  corners = center + np.stack([np.cos(angles), np.sin(angles)], -1) * radii[:, None]
  canvas.polygon([tuple(corner) for corner in corners], fill=color)


def _draw_ellipse(
  rng: np.random.Generator,
  canvas: ImageDraw.ImageDraw,
  size: npt.NDArray[np.int64],
  color: tuple[int, int, int],
) -> None:
  """Draws a filled ellipse; an open one would be a zero."""
  center = np.array(_points(rng, size, 1)[0])
  radius = rng.uniform(0.02, 0.15, 2) * size.min()
  canvas.ellipse([*(center - radius), *(center + radius)], fill=color)


def _draw_dots(
  rng: np.random.Generator,
  canvas: ImageDraw.ImageDraw,
  size: npt.NDArray[np.int64],
  color: tuple[int, int, int],
) -> None:
  """Draws a cloud of dots."""
  center = np.array(_points(rng, size, 1)[0])
  radius = max(rng.uniform(0.006, 0.02) * size.min(), 1)
  spread = rng.uniform(0.05, 0.15) * size.min()
  for dot in center + rng.normal(0, spread, (rng.integers(4, 15), 2)):
    canvas.ellipse([*(dot - radius), *(dot + radius)], fill=color)


def _draw_zigzag(
  rng: np.random.Generator,
  canvas: ImageDraw.ImageDraw,
  size: npt.NDArray[np.int64],
  color: tuple[int, int, int],
) -> None:
  """Draws a zigzag of four to eight teeth."""
  start = np.array(_points(rng, size, 1)[0])
  angle = rng.uniform(0, 2 * np.pi)
  forward = np.array([np.cos(angle), np.sin(angle)])
  step, height = rng.uniform(0.03, 0.08, 2) * size.min()
  teeth = np.arange(rng.integers(5, 10))[:, None]
  sideways = np.array([-forward[1], forward[0]]) * np.where(teeth % 2, height, -height)
  points = start + forward * teeth * step + sideways
  width = int(rng.uniform(0.008, 0.025) * size.min())
  canvas.line([tuple(point) for point in points], color, max(width, 1), "curve")


_KINDS = (
  _draw_wave,
  _draw_wave,
  _draw_polygon,
  _draw_ellipse,
  _draw_dots,
  _draw_zigzag,
)
