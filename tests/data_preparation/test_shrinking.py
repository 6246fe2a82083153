"""Large images are scaled down once; small ones stay byte by byte."""

import io
from pathlib import Path

import helpers_images
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mnv2_hpu.data_preparation import images, prepare
from mnv2_hpu.data_preparation.shrinking import Shrinking, shrink
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo
from mnv2_hpu.errors import UserError


def _encoded(width, height, image_format="JPEG", mode="RGB"):
  x = np.linspace(0, 255, width)[None, :, None]
  y = np.linspace(0, 255, height)[:, None, None]
  pixels = np.concatenate([x + 0 * y, y + 0 * x, 255 - x + 0 * y], -1).astype(np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).convert(mode).save(buffer, image_format, quality=95)
  return images.read(buffer.getvalue())


@pytest.mark.parametrize(
  ("width", "height", "expected"),
  [(1600, 1200, (256, 192)), (300, 3000, (26, 256)), (257, 1, (256, 1))],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_longer_side_is_scaled_and_the_ratio_kept(
  width, height, expected, image_format, mode
):
  stored = _encoded(width, height, image_format, mode)
  small = shrink(stored, Shrinking(256))
  assert (small.width, small.height) == expected
  assert small.format == image_format
  with Image.open(io.BytesIO(small.encoded)) as image:
    assert image.size == expected
    assert image.mode == mode
    whole = Image.open(io.BytesIO(stored.encoded)).resize(expected)
    np.testing.assert_allclose(np.asarray(image, int), np.asarray(whole, int), atol=12)


def test_an_image_that_is_small_enough_is_itself():
  stored = _encoded(256, 100)
  assert shrink(stored, Shrinking(256)) is stored
  assert shrink(_encoded(900, 900), Shrinking()).width == 900


def test_a_lower_quality_takes_fewer_bytes():
  stored = _encoded(640, 480)
  sizes = [len(shrink(stored, Shrinking(256, q)).encoded) for q in (95, 0, 50)]
  assert sizes == sorted(sizes, reverse=True)


def test_pixels_that_cannot_be_decoded_are_a_bad_image():
  whole = _encoded(640, 480, "PNG").encoded
  half = whole[: len(whole) // 2]
  broken = images.EncodedImage(half, "PNG", 480, 640, 3)
  with pytest.raises(images.BadImageError, match="truncated or corrupt"):
    shrink(broken, Shrinking(256))


@pytest.fixture
def folder(tmp_path):
  root = Path(helpers_images.write_folder(tmp_path / "images", {"ant": 12, "bee": 12}))
  with Image.open(io.BytesIO(_encoded(500, 400).encoded)) as large:
    large.save(root / "ant" / "large.jpg")
  return str(root)


def _options(folder, output, **changes):
  return prepare.PreparationOptions(folder, str(output), **changes)


def test_records_hold_the_scaled_images_and_say_so(folder, tmp_path):
  output = tmp_path / "out"
  result = prepare.prepare(_options(folder, output, max_side=64, jpeg_quality=80))
  assert "1 images were scaled down (the first: ant/large.jpg)" in result.summary()
  info = DatasetInfo.load(output)
  assert (info.max_side, info.jpeg_quality) == (64, 80)
  sides = []
  for record in tf.data.TFRecordDataset(sorted(map(str, output.glob("*-of-*")))):
    feature = tf.train.Example.FromString(record.numpy()).features.feature
    height, width = (
      feature[f"image/{side}"].int64_list.value[0] for side in ("height", "width")
    )
    with Image.open(io.BytesIO(feature["image/encoded"].bytes_list.value[0])) as image:
      assert image.size == (width, height)
    sides.append(max(height, width))
  assert max(sides) == 64
  assert prepare.prepare(_options(folder, output, max_side=64, jpeg_quality=80)).info
  with pytest.raises(UserError, match="differs in jpeg_quality, max_side"):
    prepare.prepare(_options(folder, output))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"max_side": 16}, "--max_side=16: allowed are 32 pixels and more"),
    ({"max_side": -1}, "--max_side=-1"),
    ({"jpeg_quality": 80}, "Give --max_side too"),
    ({"max_side": 64, "jpeg_quality": 100}, "allowed are 1 to 95"),
  ],
)
def test_impossible_values_are_one_error(folder, tmp_path, changes, message):
  with pytest.raises(UserError, match=message):
    prepare.prepare(_options(folder, tmp_path / "out", **changes))


def test_boxes_and_masks_are_not_scaled():
  with pytest.raises(UserError, match="those of detection are stored as they are"):
    Shrinking(256).check("detection")
