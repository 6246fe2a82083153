"""A part of an encoded image equals the same part of the whole image, decoded."""

import io

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from mnv2_hpu.dataloaders import image_decoding, inception_preprocessing

HEIGHT, WIDTH = 91, 133


def _pixels():
  """Strong colours that change within a few pixels: the worst case of subsampling."""
  random = np.random.RandomState(0)
  coarse = random.randint(0, 256, (HEIGHT // 3 + 1, WIDTH // 3 + 1, 3))
  return np.kron(coarse, np.ones((3, 3, 1)))[:HEIGHT, :WIDTH].astype(np.uint8)


def _encoded(mode="RGB", **options):
  file = io.BytesIO()
  PIL.Image.fromarray(_pixels()).convert(mode).save(file, **options)
  return file.getvalue()


FILES = {
  "colours at half size": _encoded(format="JPEG", quality=90, subsampling="4:2:0"),
  "colours at half width": _encoded(format="JPEG", quality=90, subsampling="4:2:2"),
  "colours at full size": _encoded(format="JPEG", quality=90, subsampling="4:4:4"),
  "progressive": _encoded(format="JPEG", quality=90, progressive=True),
  "grey": _encoded("L", format="JPEG"),
  "CMYK": _encoded("CMYK", format="JPEG"),
  "PNG": _encoded(format="PNG"),
  "BMP": _encoded(format="BMP"),
  "GIF": _encoded(format="GIF"),
}


def _windows(count):
  """Windows anywhere, and those that touch the edges."""
  random = np.random.RandomState(1)
  yield from [(0, 0, HEIGHT, WIDTH), (0, 0, 1, 1), (HEIGHT - 1, WIDTH - 1, 1, 1)]
  for _ in range(count):
    height, width = random.randint(1, HEIGHT + 1), random.randint(1, WIDTH + 1)
    top, left = random.randint(HEIGHT - height + 1), random.randint(WIDTH - width + 1)
    yield top, left, height, width


@pytest.mark.parametrize("name", FILES)
def test_a_window_has_the_pixels_of_the_whole_image(name):
  whole = tf.io.decode_image(FILES[name], channels=3, expand_animations=False).numpy()

  @tf.function
  def decode(encoded, begin, size):
    return image_decoding.decode_window(encoded, lambda _: (begin, size))

  for top, left, height, width in _windows(40):
    begin, size = tf.constant([top, left, 0]), tf.constant([height, width, 3])
    window = decode(tf.constant(FILES[name]), begin, size)
    expected = whole[top : top + height, left : left + width]
    np.testing.assert_array_equal(window, expected)


@pytest.mark.parametrize("name", ["colours at half size", "progressive", "PNG"])
def test_preprocessing_a_file_equals_preprocessing_its_pixels(name):
  encoded = tf.constant(FILES[name])
  image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
  for seed in range(6):
    np.testing.assert_array_equal(
      inception_preprocessing.preprocess_for_train(encoded, 32, 24, seed=[3, seed]),
      inception_preprocessing.preprocess_for_train(image, 32, 24, seed=[3, seed]),
    )
  np.testing.assert_array_equal(
    inception_preprocessing.preprocess_for_eval(encoded, 32, 24),
    inception_preprocessing.preprocess_for_eval(image, 32, 24),
  )


@pytest.mark.parametrize(
  ("target", "reduction"),
  [((91, 133), 1), ((46, 60), 1), ((45, 66), 2), ((22, 33), 4), ((11, 16), 8)],
)
def test_reduced_decoding_keeps_the_pixels_that_the_target_needs(target, reduction):
  """Against Pillow's own reduced decoding of the same file."""
  encoded = FILES["colours at half size"]
  window = image_decoding.decode_window(
    tf.constant(encoded), image_decoding.whole_image, min_size=target
  )
  assert window.shape[0] >= target[0]
  assert window.shape[1] >= target[1]
  with PIL.Image.open(io.BytesIO(encoded)) as image:
    image.draft("RGB", (WIDTH // reduction, HEIGHT // reduction))
    expected = np.asarray(image)[: HEIGHT // reduction, : WIDTH // reduction]
  assert window.shape == expected.shape
  # Pillow's libjpeg rounds otherwise by a level or two; a shift by a pixel is tens.
  assert np.abs(window.numpy().astype(int) - expected).mean() < 2.0


def test_reduced_decoding_leaves_other_formats_alone():
  window = image_decoding.decode_window(
    tf.constant(FILES["PNG"]), image_decoding.whole_image, min_size=(8, 8)
  )
  np.testing.assert_array_equal(window, _pixels())
