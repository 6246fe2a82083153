import io

import helpers_images
import numpy as np
import pytest
from PIL import Image

from mnv2_hpu import jpeg_header

EXIF = b"Exif\x00\x00" + bytes(60_000)


@pytest.mark.parametrize(
  ("options", "components"),
  [
    ({}, 3),
    ({"progressive": True}, 3),
    ({"subsampling": 0, "quality": 100}, 3),
    ({"mode": "L"}, 1),
    ({"comment": b"\xff\xc0\x00\x11 not a frame"}, 3),
    ({"restart_marker_rows": 1}, 3),
  ],
)
def test_size_and_components_are_pillows(options, components):
  data = helpers_images.encoded("JPEG", helpers_images.pixels(3, 117, 260), **options)
  with Image.open(io.BytesIO(data)) as image:
    assert jpeg_header.parse(data) == (image.height, image.width, components)


@pytest.mark.parametrize(
  "data",
  [
    b"",
    b"\xff\xd8\xff\xd9",
    helpers_images.encoded("PNG"),
    helpers_images.encoded("JPEG", mode="CMYK"),
    helpers_images.encoded("JPEG", helpers_images.pixels(3, 117, 260), exif=EXIF),
    helpers_images.jpeg() + b"\0",
    helpers_images.jpeg()[:-2],
  ],
)
def test_whatever_is_unusual_is_left_to_pillow(data):
  assert jpeg_header.parse(data) is None


def test_no_corruption_breaks_it():
  whole = helpers_images.jpeg(1)
  rng = np.random.default_rng(0)
  for _ in range(2000):
    data = bytearray(whole)
    data[rng.integers(2, 600)] = rng.integers(256)
    end = rng.integers(4, 600) if rng.random() < 0.3 else len(data) - 2
    header = jpeg_header.parse(bytes(data[:end]) + b"\xff\xd9")
    assert header is None or (header.height > 0 and header.width > 0)
