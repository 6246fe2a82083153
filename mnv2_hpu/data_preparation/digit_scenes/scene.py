"""One scene: digits placed, inked and composited; their boxes and labels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from mnv2_hpu.data_preparation.digit_scenes import backdrop

Handwriting = Sequence[npt.NDArray[np.floating[Any]]]  # per digit, [n, 8, 8] of 0 to 1
IGNORED = 255

_SIZES = (0.15, 0.6)  # heights of digits, fractions of the shorter side
_COUNT = (4, 9)  # digits of a scene, both included
_MAX_OVERLAP = 0.2  # shared by two digits, fraction of the smaller
_TRIES = 12  # places tried for a digit before it is left out
_PADDING = 2  # cells around an image of 8x8
_MAX_TURN = 0.15  # radians
_MAX_SHEAR = 0.1
_ASPECTS = (0.75, 1.0)  # factors on the width
_THRESHOLD = (0.42, 0.5)  # ink above it is drawn: how thick a digit is
_EDGE = 0.75  # pixels: what is this near to an edge is ignored, on both sides of it
_MARGIN = 1  # pixels around the box of a digit, which its edge may fade into


class Scene(NamedTuple):
  """A scene and what is to be found in it, in the order of drawing.

  Attributes:
    pixels: RGB image, uint8 `[height, width, 3]`.
    labels: Digit + 1 of each pixel, 0 for the background, 255 on edges; uint8
      `[height, width]`.
    digits: The digits, `[n]`.
    boxes: Box of each digit's ink, as if nothing lay before it: ymin, xmin, ymax, xmax
      in pixels; int64 `[n, 4]`.
    areas: Pixels of each digit's ink.
  """

  pixels: npt.NDArray[np.uint8]
  labels: npt.NDArray[np.uint8]
  digits: list[int]
  boxes: npt.NDArray[np.int64]
  areas: list[int]


class _Glyph(NamedTuple):
  """A digit in its own frame, which is its box and a margin of `_MARGIN` pixels.

  Attributes:
    digit: The digit.
    depth: Pixels from each pixel to the edge, positive within the ink, about;
      `[height, width]`.
  """

  digit: int
  depth: npt.NDArray[np.float32]

  @property
  def opacity(self) -> npt.NDArray[np.float32]:
    """Part of each pixel that the ink covers."""
    return np.clip(self.depth + 0.5, 0, 1)


def draw(
  rng: np.random.Generator, handwriting: Handwriting, size: tuple[int, int]
) -> Scene:
  """Draws a scene.

  Args:
    rng: Generator of everything drawn.
    handwriting: Images of each digit to choose from.
    size: Height and width in pixels.
  """
  ground = backdrop.draw(rng, size)
  pixels = ground.pixels.astype(np.float32)
  labels = np.zeros(size, np.uint8)
  placed = _place(rng, _glyphs(rng, handwriting, min(size)), size)
  for glyph, (top, left, bottom, right) in placed:
    area = np.s_[top - _MARGIN : bottom + _MARGIN, left - _MARGIN : right + _MARGIN]
    ink = backdrop.contrasting_color(rng, pixels[area].mean(axis=(0, 1)))
    pixels[area] += (ink - pixels[area]) * glyph.opacity[..., None]
    _label(labels[area], glyph)
  noise = rng.standard_normal(size, np.float32) * np.float32(ground.noise)
  return Scene(
    pixels=np.clip(pixels + noise[..., None], 0, 255).astype(np.uint8),
    labels=labels,
    digits=[glyph.digit for glyph, _ in placed],
    boxes=np.array([box for _, box in placed], np.int64).reshape(-1, 4),
    areas=[int((glyph.depth >= 0).sum()) for glyph, _ in placed],
  )


def _label(labels: npt.NDArray[np.uint8], glyph: _Glyph) -> None:
  """Labels the pixels of a digit, and ignores those on its edge."""
  labels[glyph.depth > -_EDGE] = IGNORED
  labels[glyph.depth >= _EDGE] = glyph.digit + 1


def _glyphs(
  rng: np.random.Generator, handwriting: Handwriting, side: int
) -> list[_Glyph]:
  """Returns digits to place, the largest first, so that it lies beneath."""
  count = rng.integers(_COUNT[0], _COUNT[1] + 1)
  low, high = np.log(_SIZES)
  sizes = np.sort(np.exp(rng.uniform(low, high, count)))[::-1] * side
  digits = rng.integers(0, 10, count)
  return [
    _Glyph(digit, _rasterize(rng, handwriting[digit], size))
    for digit, size in zip(digits.tolist(), sizes.tolist(), strict=True)
  ]


def _rasterize(
  rng: np.random.Generator, images: npt.NDArray[np.floating[Any]], size: float
) -> npt.NDArray[np.float32]:
  """Returns `_Glyph.depth` of a digit about `size` pixels high, turned a little."""
  scan = images[rng.integers(len(images))]
  source = Image.fromarray(np.pad(scan, _PADDING).astype(np.float32))
  turn, shear = rng.uniform(-_MAX_TURN, _MAX_TURN), rng.uniform(-_MAX_SHEAR, _MAX_SHEAR)
  cell = size / 8  # pixels of the scene to one of the scan
  aspect = rng.uniform(*_ASPECTS)
  # From pixels of the scene to those of the scan, about the centers of both.
  cosine, sine = np.cos(turn), np.sin(turn)
  matrix = np.array([[1 / aspect, shear], [0, 1]]) @ [[cosine, sine], [-sine, cosine]]
  matrix /= cell
  side = int(np.ceil(size * 1.5))
  offset = source.width / 2 - matrix @ [side / 2, side / 2]
  affine = (*matrix[0], offset[0], *matrix[1], offset[1])
  ink = np.asarray(
    source.transform(
      (side, side), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC
    )
  )
  # Ink rises over about a cell.
  depth = np.pad((ink - rng.uniform(*_THRESHOLD)) * cell, _MARGIN, "edge")
  rows = np.flatnonzero((depth >= 0).any(axis=1))
  columns = np.flatnonzero((depth >= 0).any(axis=0))
  return depth[
    rows[0] - _MARGIN : rows[-1] + _MARGIN + 1,
    columns[0] - _MARGIN : columns[-1] + _MARGIN + 1,
  ]


def _place(
  rng: np.random.Generator, glyphs: Sequence[_Glyph], size: tuple[int, int]
) -> list[tuple[_Glyph, tuple[int, int, int, int]]]:
  """Returns the digits that found a place, with their boxes."""
  placed: list[tuple[_Glyph, tuple[int, int, int, int]]] = []
  for glyph in glyphs:
    shape = np.array(glyph.depth.shape) - 2 * _MARGIN
    last = np.array(size) - shape - _MARGIN
    starts = rng.integers(_MARGIN, last + 1, (_TRIES, 2))
    boxes = np.concatenate([starts, starts + shape], axis=1)
    others = np.array([box for _, box in placed], np.int64).reshape(-1, 4)
    free = np.flatnonzero(_overlap(boxes, others) <= _MAX_OVERLAP)
    if len(free):
      placed.append((glyph, tuple(boxes[free[0]].tolist())))
  return placed


def _overlap(
  boxes: npt.NDArray[np.int64], others: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
  """Returns the largest fraction that each box shares with another, `[boxes]`."""
  start = np.maximum(boxes[:, None, :2], others[None, :, :2])
  end = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
  shared = np.prod(np.maximum(end - start, 0), axis=-1)
  areas = [np.prod(b[:, 2:] - b[:, :2], axis=-1) for b in (boxes, others)]
  smaller = np.minimum(areas[0][:, None], areas[1][None])
  return np.max(shared / smaller, axis=1, initial=0)
