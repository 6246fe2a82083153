"""Preprocessing against golden numbers of slim's own graph (see tests/golden)."""

import functools
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.dataloaders import inception_preprocessing as preprocessing
from mnv2_hpu.dataloaders.input_fields import PreprocessingOptions

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
DRAWS = 2000
STATISTICS = json.loads((GOLDEN / "preprocess_train_stats.json").read_text())
UNDISTORTED = PreprocessingOptions(crop=False, flip=False, color_distortion=False)
WHOLE = PreprocessingOptions(central_fraction=1.0)


@functools.cache
def _image(number):
  return tf.io.decode_png((GOLDEN / f"preprocess_image_{number}.png").read_bytes())


def _seeds(count, seed=0):
  return tf.stack([tf.fill([count], seed), tf.range(count)], axis=1)


def _draw(function, seeds, specs):
  """Results of a function of a seed, drawn within tf.data, stacked in order."""
  dataset = tf.data.Dataset.from_tensor_slices(seeds).map(
    function, num_parallel_calls=2, deterministic=True
  )
  stacked = next(iter(dataset.batch(len(seeds))))
  assert len(stacked) == specs
  return [part.numpy() for part in stacked]


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("size", [224, 96])
@pytest.mark.fidelity
def test_evaluation_equals_slim(number, size, fidelity):
  with np.load(GOLDEN / "preprocess_eval.npz") as golden:
    expected = golden[f"eval_{number}_{size}"]
    stride = golden[f"stride_{size}"]
    total, norm, low, high = golden[f"eval_{number}_{size}_checksum"]
  image = preprocessing.preprocess_for_eval(_image(number), size, size).numpy()
  assert image.dtype == np.float32
  difference = np.abs(image[::stride, ::stride] - expected)
  fidelity(
    f"evaluation preprocessing, image {number}, {size} px",
    f"norm {norm:.7g}",
    f"norm {np.linalg.norm(image):.7g}",
    difference.max(),
    "1/255, 1e-3 on average",
  )
  assert difference.max() < 1 / 255
  assert difference.mean() < 1e-3
  # The whole image, of which the file holds every second or third pixel.
  assert difference.max() < 1e-5
  wide = image.astype(np.float64)
  np.testing.assert_allclose(wide.sum(), total, atol=0.05)
  np.testing.assert_allclose(np.sqrt((wide**2).sum()), norm, rtol=1e-5)
  assert (image.min(), image.max()) == (low, high)


@pytest.mark.parametrize("convert", [tf.identity, None], ids=["uint8", "float32"])
def test_evaluation_is_the_same_eagerly_in_tf_data_and_in_a_saved_model(
  tmp_path, convert
):
  convert = convert or (lambda image: tf.image.convert_image_dtype(image, tf.float32))
  image = convert(_image(1))
  evaluate = functools.partial(preprocessing.preprocess_for_eval, height=96, width=80)
  eager = evaluate(image)
  dataset = tf.data.Dataset.from_generator(
    lambda: [image.numpy()],
    output_signature=tf.TensorSpec([None, None, 3], image.dtype),
  )
  mapped = dataset.map(evaluate)
  assert mapped.element_spec == tf.TensorSpec([96, 80, 3], tf.float32)
  np.testing.assert_array_equal(next(iter(mapped)), eager)

  module = tf.Module()
  module.serve = tf.function(
    lambda images: tf.map_fn(evaluate, images, fn_output_signature=tf.float32),
    input_signature=[tf.TensorSpec([None, None, None, 3], image.dtype)],
  )
  tf.saved_model.save(module, str(tmp_path / "model"))
  served = tf.saved_model.load(str(tmp_path / "model")).serve(tf.stack([image, image]))
  np.testing.assert_allclose(served, tf.stack([eager, eager]), atol=1e-6)


def test_float_images_are_read_as_uint8_ones():
  as_float = tf.image.convert_image_dtype(_image(2), tf.float32)
  np.testing.assert_allclose(
    preprocessing.preprocess_for_eval(as_float, 64, 64),
    preprocessing.preprocess_for_eval(_image(2), 64, 64),
    atol=1e-6,
  )


@pytest.mark.parametrize("side", [1, 7, 8, 15, 224, 333])
@pytest.mark.parametrize("fraction", [0.875, 0.5, 1.0])
def test_central_crop_is_that_of_tf_image(side, fraction):
  image = tf.reshape(tf.range(side * (side + 1) * 3), [side, side + 1, 3])
  begin, size = preprocessing.central_crop_window(tf.shape(image), fraction)
  expected = tf.image.central_crop(image, fraction)
  np.testing.assert_array_equal(tf.slice(image, begin, size), expected)


@functools.cache
def _drawn_windows(number):
  image_shape = tf.shape(_image(number))

  def draw(seed):
    return preprocessing.distorted_crop_window(
      image_shape, preprocessing.DEFAULT_OPTIONS, seed
    )

  return _draw(draw, _seeds(DRAWS), specs=2)


def _assert_same_distribution(values, golden, span):
  """Compares quantiles: of 2,000 draws each, well within four standard errors.

  Args:
    values: Draws of ours.
    golden: Quantiles of slim's draws.
    span: Width of the range that the values can take; the tolerance is a part of it.
  """
  levels = np.array(STATISTICS["a"]["quantile_levels"])
  inner = slice(1, -1)  # the extremes of a sample say little of its distribution
  ours = np.quantile(values, levels)
  np.testing.assert_allclose(ours[inner], np.array(golden)[inner], atol=0.045 * span)


@pytest.mark.parametrize(("case", "number"), [("a", 1), ("b", 0)])
def test_crops_are_distributed_as_slims(case, number):
  golden = STATISTICS[case]
  begin, size = _drawn_windows(number)
  height, width = golden["image_shape"]
  area = size[:, 0] * size[:, 1] / (height * width)
  aspect = size[:, 1] / size[:, 0]
  _assert_same_distribution(area, golden["area_fraction"], 1.0)
  _assert_same_distribution(aspect, golden["aspect_ratio_w_over_h"], 0.58)
  _assert_same_distribution(begin[:, 0] / height, golden["begin_y_fraction"], 0.7)
  _assert_same_distribution(begin[:, 1] / width, golden["begin_x_fraction"], 0.75)
  standard_error = area.std() / np.sqrt(DRAWS / 2)  # deviation of two means
  assert abs(area.mean() - golden["area_mean"]) < 4 * standard_error
  assert abs(aspect.mean() - golden["aspect_mean"]) < 4 * 0.17 / np.sqrt(DRAWS / 2)
  assert area.min() >= 0.1  # the object is the whole image, of which a tenth stays
  full = (size[:, 0] == height) & (size[:, 1] == width)
  assert full.mean() == golden["full_image_fraction"]


def test_crops_honour_their_options():
  options = PreprocessingOptions(
    crop_area_range=(0.5, 0.6),
    crop_aspect_ratio_range=(0.9, 1.1),
    crop_min_object_covered=0.0,
  )
  _, size = _draw(
    lambda seed: preprocessing.distorted_crop_window([100, 100, 3], options, seed),
    _seeds(200),
    specs=2,
  )
  area = size[:, 0] * size[:, 1] / 1e4
  assert 0.48 < area.min() < area.max() < 0.62
  aspect = size[:, 1] / size[:, 0]
  assert 0.87 < aspect.min() < aspect.max() < 1.13


def _gradient_image():
  """Mid-grey levels with a little colour, so that no distortion clips."""
  ramp = np.linspace(0.4, 0.6, 16, dtype=np.float32)
  image = np.stack([np.tile(ramp, (16, 1))] * 3, axis=-1)
  return tf.constant(image + np.float32([0.02, 0.0, -0.02]))


def test_brightness_saturation_and_flip_are_distributed_as_slims():
  golden = STATISTICS["a"]
  image = _gradient_image()
  options = PreprocessingOptions(crop=False)
  (results,) = _draw(
    lambda seed: (preprocessing.preprocess_for_train(image, 16, 16, options, seed),),
    _seeds(DRAWS),
    specs=1,
  )
  results = results / 2 + 0.5
  # Brightness adds to the largest channel, which saturation then leaves alone;
  # saturation multiplies (largest - smallest) / largest.
  peak = results.max(axis=-1)
  original_peak = image.numpy().max(axis=-1)
  delta = peak.mean(axis=(1, 2)) - original_peak.mean()
  _assert_same_distribution(delta, golden["brightness_delta"], 2 * 32 / 255)
  assert np.abs(delta).max() <= golden["brightness_limit"] + 1e-5
  # Adding to all channels keeps their difference: only saturation changes it.
  spread = (results.max(axis=-1) - results.min(axis=-1)).mean(axis=(1, 2))
  saturation = spread / 0.04
  _assert_same_distribution(saturation, golden["saturation_factor"], 1.0)
  assert 0.499 < saturation.min() < saturation.max() < 1.501
  flipped = peak[:, :, 0].mean(axis=1) > peak[:, :, -1].mean(axis=1)
  assert abs(flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(DRAWS)


@pytest.mark.parametrize(("case", "number"), [("a", 1), ("b", 0)])
@pytest.mark.fidelity
def test_training_images_have_slims_mean_and_deviation(case, number, fidelity):
  golden = STATISTICS[case]
  draws, size = 1000, golden["size"]

  def draw(seed):
    image = preprocessing.preprocess_for_train(_image(number), size, size, seed=seed)
    mean, variance = tf.nn.moments(image, axes=[0, 1])
    saturated = tf.reduce_mean(tf.cast(tf.abs(image) == 1.0, tf.float32))
    return mean, tf.sqrt(variance), tf.reduce_max(tf.abs(image)), saturated

  mean, deviation, largest, saturated = _draw(draw, _seeds(draws), specs=4)
  noise = np.sqrt(1 / draws + 1 / golden["draws"])
  for name, values in (("mean", mean), ("std", deviation)):
    spread = np.array(golden[f"output_channel_{name}_sd_between_draws"])
    difference = np.abs(values.mean(axis=0) - golden[f"output_channel_{name}"])
    fidelity(
      f"training preprocessing, {name} by channel, {draws} draws, image {number}",
      ", ".join(f"{v:.3f}" for v in golden[f"output_channel_{name}"]),
      ", ".join(f"{v:.3f}" for v in values.mean(axis=0)),
      difference.max(),
      f"{(4 * spread * noise).min():.2g} (4 standard errors)",
    )
    assert (difference < 4 * spread * noise).all()
    np.testing.assert_allclose(values.std(axis=0), spread, rtol=0.1)
  assert largest.max() == 1.0
  np.testing.assert_allclose(
    saturated.mean(), golden["saturated_pixel_fraction"], rtol=0.25
  )


@pytest.mark.parametrize("fast_mode", [True, False])
def test_training_follows_from_the_seed_eagerly_and_in_tf_data(fast_mode):
  options = PreprocessingOptions(fast_mode=fast_mode)

  def draw(seed):
    return preprocessing.preprocess_for_train(_image(0), 48, 40, options, seed)

  seeds = _seeds(6, seed=3)
  eager = np.stack([draw(seed) for seed in seeds])
  (mapped,) = _draw(lambda seed: (draw(seed),), seeds, specs=1)
  assert mapped.shape == (6, 48, 40, 3)
  np.testing.assert_allclose(mapped, eager, atol=1e-5)
  assert len(np.unique(eager.round(4), axis=0)) == 6


def test_without_a_seed_each_call_draws_other_numbers():
  first, second = (
    preprocessing.preprocess_for_train(_image(2), 32, 32).numpy() for _ in range(2)
  )
  assert np.abs(first - second).max() > 0.01


def test_slow_mode_stays_in_range_and_changes_hue():
  """Hue alone can make another channel the largest."""

  def draw(fast_mode):
    options = PreprocessingOptions(fast_mode=fast_mode)
    return _draw(
      lambda seed: (
        preprocessing.preprocess_for_train(_image(0), 32, 32, options, seed),
      ),
      _seeds(60),
      specs=1,
    )[0]

  slow = draw(fast_mode=False)
  assert (slow.min(), slow.max()) == (-1.0, 1.0)
  assert np.isfinite(slow).all()
  uniform = tf.fill([8, 8, 3], 0.5) + tf.constant([0.2, 0.0, -0.2])

  def hues(fast_mode):
    options = PreprocessingOptions(fast_mode=fast_mode, crop=False)
    (images,) = _draw(
      lambda seed: (preprocessing.preprocess_for_train(uniform, 8, 8, options, seed),),
      _seeds(100),
      specs=1,
    )
    return tf.image.rgb_to_hsv(images[:, 0, 0] / 2 + 0.5)[:, 0].numpy()

  hue = tf.image.rgb_to_hsv(uniform)[0, 0, 0].numpy()
  assert np.ptp(hues(fast_mode=True)) < 0.01
  turned = (hues(fast_mode=False) - hue + 0.5) % 1.0 - 0.5
  assert 0.17 < np.abs(turned).max() < 0.25


def test_parts_can_be_turned_off():
  resized = preprocessing.preprocess_for_train(_image(2), 40, 40, UNDISTORTED)
  whole = preprocessing.preprocess_for_eval(_image(2), 40, 40, WHOLE)
  np.testing.assert_allclose(resized, whole, atol=1e-6)  # C++ adds in another order


def test_evaluation_without_crop_sees_the_whole_image():
  image = _image(2)
  options = PreprocessingOptions(crop=False)
  whole = PreprocessingOptions(central_fraction=1.0)
  ours, expected = (
    preprocessing.preprocess_for_eval(image, 32, 32, o) for o in (options, whole)
  )
  np.testing.assert_array_equal(ours, expected)


def _both_ways(crop, number, size, **options):
  """What training sees by the host alone, and with the second part on the device."""
  seed = tf.constant([number, 7], tf.int64)
  options = PreprocessingOptions(**options)
  features = preprocessing.resize_for_device(crop, *size, options, seed)
  batch = {name: value[None] for name, value in features.items()}
  host = preprocessing.distort_crop(crop, *size, options, seed)
  return host.numpy(), preprocessing.finish_on_device(batch)[0].numpy()


@pytest.mark.parametrize("options", [{}, {"color_distortion": False}, {"flip": False}])
def test_a_device_finishes_as_the_host_does(options):
  """Equal where nothing is resized; else the pixels are whole levels before colors."""
  crop = tf.constant(_image(2))
  for number in range(10):
    host, device = _both_ways(crop, number, crop.shape[:2], **options)
    np.testing.assert_allclose(device, host, atol=1e-5)
    host, device = _both_ways(crop, number, (40, 33), **options)
    assert np.abs(device - host).max() * 127.5 < 1.5  # levels
    assert np.abs(device - host).mean() * 127.5 < 0.5


def test_a_device_changes_each_image_of_a_batch_by_its_own_amounts():
  crop = tf.constant(_image(2))
  options = PreprocessingOptions(preprocess_on_device=True)
  features = [
    preprocessing.resize_for_device(crop, 20, 20, options, tf.constant([number, 7]))
    for number in range(3)
  ]
  stacked = tf.nest.map_structure(lambda *parts: tf.stack(parts), *features)
  for image, alone in zip(
    preprocessing.finish_on_device(stacked), features, strict=True
  ):
    alone = {name: value[None] for name, value in alone.items()}
    np.testing.assert_array_equal(image, preprocessing.finish_on_device(alone)[0])
