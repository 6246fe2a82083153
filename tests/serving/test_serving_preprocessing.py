import helpers_serving as serving
import numpy as np
import pytest
import tensorflow as tf
from official.vision.dataloaders import classification_input as upstream_input

from mnv2_hpu.dataloaders import inception_preprocessing
from mnv2_hpu.dataloaders.input_fields import PreprocessingOptions
from mnv2_hpu.errors import UserError
from mnv2_hpu.serving import preprocessing


@pytest.fixture
def image():
  return np.random.default_rng(1).integers(0, 256, (50, 37, 3), np.uint8)


@pytest.mark.parametrize("name", preprocessing.KINDS)
@pytest.mark.parametrize("crop", [True, False])
def test_resizing_then_scaling_is_the_networks_input(image, name, crop):
  subject = preprocessing.create(name, 24, 32, PreprocessingOptions(crop=crop))
  pixels = subject.resize(image)
  assert pixels.shape == (24, 32, 3)
  assert tf.reduce_min(pixels) >= 0
  assert 200 < tf.reduce_max(pixels) <= 255.001
  np.testing.assert_allclose(
    subject.normalize(pixels), subject.network_input(image), atol=1e-5
  )


@pytest.mark.parametrize("fraction", [0.875, 1.0])
def test_inception_is_bit_for_bit_what_evaluation_does(image, fraction):
  options = PreprocessingOptions(central_fraction=fraction)
  subject = preprocessing.create("inception", 24, 32, options)
  np.testing.assert_array_equal(
    subject.network_input(image),
    inception_preprocessing.preprocess_for_eval(image, 24, 32, options),
  )


@pytest.mark.parametrize("crop", [True, False])
def test_model_garden_is_what_its_parser_does(image, crop):
  parser = upstream_input.Parser(
    output_size=[24, 32],
    num_classes=10,
    decode_jpeg_only=False,
    aug_crop=crop,
  )
  expected, _ = parser.parse_fn(is_training=False)(
    {"image/encoded": tf.constant(serving.png(image)), "image/class/label": 3}
  )
  subject = preprocessing.create(
    "model_garden", 24, 32, PreprocessingOptions(crop=crop)
  )
  np.testing.assert_allclose(subject.network_input(image), expected, atol=1e-5)


def test_unknown_preprocessing_names_the_nearest():
  with pytest.raises(UserError, match="Did you mean 'inception'"):
    preprocessing.create("inceptoin", 8, 8, PreprocessingOptions())


@pytest.mark.parametrize("name", preprocessing.KINDS)
def test_export_json_describes_it(name):
  options = PreprocessingOptions(central_fraction=0.7, crop=False)
  subject = preprocessing.create(name, 24, 32, options)
  assert preprocessing.from_dict(subject.as_dict()) == subject
