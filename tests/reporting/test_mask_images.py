"""Masks in the colors of their classes, and the files that hold their labels."""

import io

import numpy as np
from PIL import Image

from mnv2_hpu.reporting import masks

NAMES = ["background", "cat", "a class of a very long name"]


def test_colors_are_those_of_the_legend():
  mask = np.array([[0, 1, 2, 255]], np.uint8)
  colored = masks.colored(mask, ignore_label=255)
  for column, label in enumerate((0, 1, 2)):
    red, green, blue = colored[0, column]
    color = f"#{red:02x}{green:02x}{blue:02x}"
    assert color == masks.color_of(label)
    assert color in masks.legend_html([label], NAMES)
  assert colored[0, 3].tolist() == [255, 255, 255]


def test_classes_differ_in_color():
  for number in (21, 60):  # VOC's, and more
    assert len({masks.color_of(label) for label in range(number)}) == number


def test_the_background_is_left_as_it_is():
  image = np.full([2, 2, 3], 100, np.uint8)
  blended = masks.blend(image, np.array([[0, 1], [0, 2]], np.uint8))
  assert (blended[:, 0] == 100).all()
  color = np.array(list(bytes.fromhex(masks.color_of(1)[1:])))
  np.testing.assert_allclose(blended[0, 1], 0.4 * 100 + 0.6 * color, atol=1)


def test_a_label_png_holds_the_labels():
  mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
  with Image.open(io.BytesIO(masks.label_png(mask))) as image:
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), mask)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), masks.colored(mask))


def test_a_legend_is_as_wide_as_its_image_and_names_all():
  for width in (40, 300):
    image = np.full([50, width, 3], 7, np.uint8)
    drawn = masks.with_legend(image, [0, 1, 2], NAMES)
    assert drawn.shape[1] == width
    np.testing.assert_array_equal(drawn[:50], image)
    below = drawn[50:].reshape(-1, 3)
    for label in range(3):
      color = list(bytes.fromhex(masks.color_of(label)[1:]))
      assert (below == color).all(axis=1).sum() >= 100, (width, label)


def test_an_image_is_fitted_by_its_longer_side():
  assert masks.fit(np.zeros([30, 60, 3], np.uint8), 240).shape == (120, 240, 3)
  assert masks.fit(np.zeros([1000, 3, 3], np.uint8), 100).shape == (100, 1, 3)
