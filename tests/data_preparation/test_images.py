import contextlib
import io
import struct

import helpers_images
import numpy as np
import pytest
from PIL import ExifTags, Image

from mnv2_hpu.data_preparation import images
from mnv2_hpu.dataloaders import image_decoding
from mnv2_hpu.serving import sample_images


def decoded(encoded):
  """The pixels that training and the export see."""
  return image_decoding.decode_image(encoded).numpy().astype(int)


@pytest.mark.parametrize(
  ("data", "image_format", "channels"),
  [
    (helpers_images.jpeg(), "JPEG", 3),
    (helpers_images.jpeg(progressive=True), "JPEG", 3),
    (helpers_images.encoded("JPEG", mode="L"), "JPEG", 1),
    (helpers_images.encoded("PNG"), "PNG", 3),
    (helpers_images.encoded("PNG", mode="L"), "PNG", 1),
    (helpers_images.jpeg() + bytes(7), "JPEG", 3),  # cameras pad their files
  ],
)
def test_what_tensorflow_reads_passes_through(data, image_format, channels):
  stored = images.read(data)
  assert stored.encoded == data
  assert not stored.converted
  assert (stored.format, stored.channels) == (image_format, channels)
  assert (stored.height, stored.width) == (24, 36)
  assert decoded(stored.encoded).shape == (24, 36, 3)


@pytest.mark.parametrize(
  "data",
  [
    helpers_images.encoded("GIF"),
    helpers_images.encoded("BMP"),
    helpers_images.encoded("TIFF"),
    helpers_images.encoded("WEBP", lossless=True),
    helpers_images.encoded("JPEG", mode="CMYK"),
    helpers_images.encoded("PNG", mode="P"),
    helpers_images.encoded("PNG", mode="RGBA"),
    helpers_images.encoded("PNG", mode="LA"),
    helpers_images.encoded("PNG", mode="1"),
    helpers_images.encoded("PNG", transparency=(1, 2, 3)),
  ],
)
def test_the_rest_is_converted_with_the_colours_that_pillow_sees(data):
  stored = images.read(data)
  assert stored.converted
  expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int32)
  difference = np.abs(decoded(stored.encoded) - expected)
  # JPEG of quality 95, on average within three levels.
  assert difference.mean() <= (0 if stored.format == "PNG" else 3)
  assert (stored.height, stored.width) == (24, 36)


SAMPLES = sample_images.sample_images()


@pytest.mark.parametrize("kind", SAMPLES)
def test_the_export_sees_in_a_file_what_preparation_stores_of_it(kind):
  stored = images.read(SAMPLES[kind])
  assert stored.converted
  difference = np.abs(decoded(stored.encoded) - decoded(SAMPLES[kind]))
  # Re-encoding a JPEG costs a few levels.
  assert difference.max() <= (0 if stored.format == "PNG" else 8)
  assert np.ptp(decoded(stored.encoded)) > 50 or kind == "PNG, 12 of 16 bits"


def test_of_a_gif_larger_than_its_first_frame_the_frame_is_taken():
  data = bytearray(helpers_images.encoded("GIF"))
  data[6:10] = struct.pack("<HH", 50, 40)  # the canvas; the frame has 36x24
  stored = images.read(bytes(data))
  assert (stored.width, stored.height) == (36, 24)
  assert (decoded(stored.encoded) == decoded(bytes(data))).all()


@pytest.mark.parametrize("image_format", ["TIFF", "WEBP", "PNG"])
def test_formats_that_no_export_reads_are_composited_alike(image_format):
  rgba = np.dstack([helpers_images.pixels(), np.arange(36 * 24).reshape(24, 36) % 256])
  options = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
  data = helpers_images.encoded(image_format, rgba.astype(np.uint8), **options)
  stored = decoded(images.read(data).encoded)
  if image_format == "WEBP":
    assert np.abs(stored - np.rint(rgba[..., :3] * rgba[..., 3:] / 255)).mean() < 3
  else:
    assert (stored == np.rint(rgba[..., :3] * rgba[..., 3:] / 255)).all()


def test_transparent_pixels_become_black():
  rgba = np.zeros((4, 4, 4), np.uint8)
  rgba[0, 0] = (10, 20, 30, 255)
  pixels = decoded(images.read(helpers_images.encoded("PNG", rgba)).encoded)
  assert pixels[0, 0].tolist() == [10, 20, 30]
  assert (pixels[1:] == 0).all()


@pytest.mark.parametrize(
  ("data", "level"),
  [
    (helpers_images.encoded("PNG", np.full((5, 5), 0x1234, np.uint16)), 0x12),
    (helpers_images.encoded("TIFF", np.full((5, 5), 0xFE01, np.uint16)), 0xFE),
    (helpers_images.png_16_bits_rgb(0x7FFF), 0x7F),
  ],
)
def test_16_bits_keep_their_upper_byte_as_tensorflow_does(data, level):
  stored = images.read(data)
  assert stored.converted
  assert np.unique(decoded(stored.encoded)).tolist() == [level]


@pytest.mark.parametrize("significant_bits", [8, 10, 12])
def test_significant_bits_scale_every_16_bit_image_alike(significant_bits):
  largest = 2**significant_bits - 1
  ramp = np.linspace(0, largest, 256).astype(np.uint16).reshape(16, 16)
  expected = ramp >> significant_bits - 8
  for image_format in ("PNG", "TIFF"):
    data = helpers_images.encoded(image_format, ramp)
    stored = images.read(data, significant_bits=significant_bits)
    assert stored.bits_used == significant_bits
    assert (decoded(stored.encoded)[..., 0] == expected).all()
  png = images.read(helpers_images.png_16_bits_rgb(largest), False, significant_bits)
  assert (decoded(png.encoded) == 255).all()
  too_large = helpers_images.png_16_bits_rgb(2 * largest)
  assert (decoded(images.read(too_large, False, significant_bits).encoded) == 255).all()


def test_a_pgm_is_scaled_by_the_largest_sample_that_it_states():
  data = b"P5 2 1 4095\n" + struct.pack(">HH", 4095, 2048)
  stored = images.read(data, significant_bits=12)
  assert decoded(stored.encoded)[0, :, 0].tolist() == [255, 128]


def test_bits_used_are_those_of_the_largest_sample():
  assert images.read(helpers_images.png_16_bits_rgb(0x0FFF)).bits_used == 12
  assert images.read(helpers_images.encoded("PNG", mode="RGBA")).bits_used == 0


EXIF_FORMATS = ["JPEG", "PNG", "WEBP", "TIFF"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", EXIF_FORMATS)
def test_an_exif_orientation_is_reported_and_ignored(image_format, orientation):
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  options = {"lossless": True} if image_format == "WEBP" else {}
  plain = images.read(helpers_images.encoded(image_format, **options))
  data = helpers_images.encoded(image_format, exif=exif, **options)
  turned = images.read(data)
  assert (plain.orientation, turned.orientation) == (1, orientation)
  assert (decoded(turned.encoded) == decoded(plain.encoded)).all()
  if image_format in ("JPEG", "PNG"):
    assert turned.encoded == data
    assert (decoded(data) == decoded(plain.encoded)).all()  # as the export sees it


def test_corrupt_exif_is_no_orientation():
  data = helpers_images.jpeg(exif=b"Exif\0\0II*\0" + bytes(range(40)))
  assert images.read(data).orientation == 1


def test_first_frame_of_an_animation_is_taken():
  frames = [Image.fromarray(helpers_images.pixels(seed)) for seed in (1, 2)]
  buffer = io.BytesIO()
  frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
  expected = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
  assert (decoded(images.read(buffer.getvalue()).encoded) == expected).all()


JPEG = helpers_images.jpeg(3)
PNG = helpers_images.encoded("PNG")


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (b"", "the file is empty"),
    (b"not an image at all\n", "not an image"),
    (JPEG[: len(JPEG) // 2], "truncated"),
    (JPEG[:-40], "truncated"),
    (JPEG[:10], "truncated|cut off in its header"),
    (PNG[: len(PNG) // 2], "truncated"),
    (helpers_images.encoded("GIF")[:-40], "truncated"),
    (helpers_images.encoded("WEBP")[:60], "cut off in its header|truncated"),
    (helpers_images.bomb_png(), "more than 89,478,485 pixels"),
    (
      helpers_images.bomb_png(10_000, 9_000),
      "10000x9000 is more than 89,478,485 pixels",
    ),
    (helpers_images.encoded("TIFF", np.ones((4, 4), np.float32)), "not 8 or 16 bits"),
  ],
)
def test_bad_images_are_refused_with_the_reason(data, reason):
  with pytest.raises(images.BadImageError, match=reason):
    images.read(data)


@pytest.mark.parametrize(
  "data", [JPEG, PNG, helpers_images.encoded("GIF"), helpers_images.encoded("TIFF")]
)
def test_corruption_anywhere_is_refused_or_read_but_never_breaks(data):
  rng = np.random.default_rng(0)
  for attempt in range(60):
    corrupted = bytearray(data)
    reach = len(data) if attempt % 2 else min(len(data), 300)  # mostly the header
    corrupted[rng.integers(reach)] ^= 1 << rng.integers(8)
    end = rng.integers(1, len(data)) if attempt % 3 == 0 else len(data)
    with contextlib.suppress(images.BadImageError):
      stored = images.read(bytes(corrupted[:end]))
      assert stored.format in ("JPEG", "PNG")
      assert min(stored.height, stored.width) > 0
