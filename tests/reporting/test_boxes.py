"""Boxes are drawn where they are, with their text inside the image."""

import io

import numpy as np
from PIL import Image

from mnv2_hpu.reporting import boxes

RED, BLACK = (213, 94, 0), (0, 0, 0)


def _draw(*drawn, size=200):
  buffer = io.BytesIO()
  Image.new("RGB", (100, 60)).save(buffer, "PNG")
  with Image.open(io.BytesIO(boxes.draw(buffer.getvalue(), drawn, size))) as image:
    return np.asarray(image)


def test_the_edge_lies_at_the_box_scaled():
  pixels = _draw(boxes.Box(10, 20, 40, 80, color="#d55e00"))
  assert pixels.shape == (120, 200, 3)
  rows, columns = np.nonzero((pixels == RED).all(axis=-1))
  assert (rows.min(), columns.min(), rows.max(), columns.max()) == (20, 40, 79, 159)
  assert tuple(pixels[50, 100]) == BLACK  # not filled


def test_a_text_stays_in_the_image():
  """That of a box which reaches out of the image above, left, right or below."""
  for edges in ((-5, -5, 20, 20), (0, 95, 20, 130), (58, 90, 70, 120)):
    pixels = _draw(boxes.Box(*edges, "a long name 93%", "#d55e00"), size=400)
    filled = (pixels == RED).all(axis=-1)
    assert filled.sum() > 500  # the ground of the text
    without = _draw(boxes.Box(*edges, "", "#d55e00"), size=400)
    assert (without == RED).all(axis=-1).sum() < filled.sum()


def test_a_dashed_edge_is_broken():
  whole, dashed = (
    (_draw(boxes.Box(10, 10, 50, 90, "", "#d55e00", kind)) == RED).all(axis=-1).sum()
    for kind in (False, True)
  )
  assert 0.3 * whole < dashed < 0.9 * whole


def test_a_class_has_one_color():
  assert boxes.color_of(3) == boxes.color_of(3 + len(boxes.COLORS))
  assert len({boxes.color_of(label) for label in range(7)}) == 7
