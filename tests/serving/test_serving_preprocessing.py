import helpers_serving as serving
import numpy as np
import pytest
import tensorflow as tf
from official.vision.dataloaders import classification_input as garden_input

from mnv2_hpu.dataloaders import inception_preprocessing
from mnv2_hpu.errors import UserError
from mnv2_hpu.serving import preprocessing


@pytest.fixture
def image():
  return np.random.default_rng(1).integers(0, 256, (50, 37, 3), np.uint8)


@pytest.mark.parametrize("name", preprocessing.KINDS)
@pytest.mark.parametrize("crop", [True, False])
def test_resizing_then_scaling_is_the_networks_input(image, name, crop):
  subject = preprocessing.create(name, height=24, width=32, crop=crop)
  pixels = subject.resize(image)
  assert pixels.shape == (24, 32, 3)
  assert tf.reduce_min(pixels) >= 0
  assert 200 < tf.reduce_max(pixels) <= 255.001
  np.testing.assert_allclose(
    subject.normalize(pixels), subject.network_input(image), atol=1e-5
  )


@pytest.mark.parametrize("fraction", [0.875, 1.0])
def test_inception_is_bit_for_bit_what_evaluation_does(image, fraction):
  subject = preprocessing.create(
    "inception", height=24, width=32, central_fraction=fraction
  )
  np.testing.assert_array_equal(
    subject.network_input(image),
    inception_preprocessing.preprocess_for_eval(image, 24, 32, fraction),
  )


@pytest.mark.parametrize("crop", [True, False])
def test_model_garden_is_what_its_parser_does(image, crop):
  parser = garden_input.Parser(
    output_size=[24, 32],
    num_classes=10,
    decode_jpeg_only=False,
    aug_crop=crop,
  )
  expected, _ = parser.parse_fn(is_training=False)(
    {"image/encoded": tf.constant(serving.png(image)), "image/class/label": 3}
  )
  subject = preprocessing.create("model_garden", height=24, width=32, crop=crop)
  np.testing.assert_allclose(subject.network_input(image), expected, atol=1e-5)


def test_unknown_preprocessing_names_the_nearest():
  with pytest.raises(UserError, match="Did you mean 'inception'"):
    preprocessing.create("inceptoin", height=8, width=8)
