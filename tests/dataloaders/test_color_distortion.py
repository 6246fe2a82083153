"""Colour distortions against TensorFlow's own operations on images, one by one."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.dataloaders import color_distortion

NEARLY_ONE = np.nextafter(np.float32(1), np.float32(0))
# Black, white, greys, primaries, and colours that differ little.
_EDGES = np.array(
  [*itertools.product((0.0, 0.1, 0.5, 1.0), repeat=3), (0.3, 0.3, 0.30001)], np.float32
)


def _image(height=23, width=31):
  noise = np.random.default_rng(0).uniform(size=(height * width, 3))
  noise[: len(_EDGES)] = _EDGES
  return tf.constant(noise.reshape(height, width, 3), tf.float32)


def _by_tensorflow(image, names, drawn):
  """Applies slim's distortions by name; slim states the ranges that are drawn from."""
  apply = {
    "brightness": lambda x: tf.image.adjust_brightness(
      x, (2 * drawn["brightness"] - 1) * 32 / 255
    ),
    "saturation": lambda x: tf.image.adjust_saturation(x, 0.5 + drawn["saturation"]),
    "hue": lambda x: tf.image.adjust_hue(x, 0.4 * drawn["hue"] - 0.2),
    "contrast": lambda x: tf.image.adjust_contrast(x, 0.5 + drawn["contrast"]),
  }
  for name in names:
    image = apply[name](image)
  return np.clip(image.numpy(), 0, 1)


@pytest.mark.parametrize("brightness", [0.0, 0.3, 0.5, NEARLY_ONE])
@pytest.mark.parametrize("saturation", [0.0, 0.5, 0.8, NEARLY_ONE])
def test_fast_mode_is_brightness_then_saturation(brightness, saturation):
  draws = tf.constant([0.9, brightness, saturation, 0.1, 0.2], tf.float32)
  distorted = color_distortion.distort_color(_image(), draws, fast_mode=True)
  drawn = {"brightness": brightness, "saturation": saturation}
  expected = _by_tensorflow(_image(), ("brightness", "saturation"), drawn)
  assert distorted.shape == (23, 31, 3)
  assert distorted.dtype == tf.float32
  np.testing.assert_allclose(distorted, expected, atol=1e-6)
  assert ((expected == 0) | (expected == 1)).any()  # some pixels were clipped
  assert np.ptp(expected) > 0.75


@pytest.mark.parametrize(
  ("order", "names"),
  [
    (0.0, ("brightness", "saturation", "hue", "contrast")),
    (0.3, ("saturation", "brightness", "contrast", "hue")),
    (0.6, ("contrast", "hue", "brightness", "saturation")),
    (NEARLY_ONE, ("hue", "saturation", "contrast", "brightness")),
  ],
)
def test_full_mode_has_slims_four_orders(order, names):
  draws = tf.constant([order, 0.8, 0.9, 0.7, 0.6], tf.float32)
  distorted = color_distortion.distort_color(_image(), draws, fast_mode=False)
  drawn = {"brightness": 0.8, "saturation": 0.9, "hue": 0.7, "contrast": 0.6}
  expected = _by_tensorflow(_image(), names, drawn)
  np.testing.assert_allclose(distorted, expected, atol=5e-6)


def test_a_number_drawn_chooses_each_branch_equally_often():
  branches = [lambda number=number: tf.constant(number) for number in range(3)]
  drawn = [0.0, 0.32, 0.34, 0.66, 0.67, NEARLY_ONE]
  chosen = [color_distortion.choose(tf.constant(d), branches).numpy() for d in drawn]
  assert chosen == [0, 0, 1, 1, 2, 2]
