"""Scaling, padding, cropping and flipping against research/deeplab; the records."""

import dataclasses
import json

import golden_recipes
import helpers_deeplab
import helpers_segmentation_records as helpers
import numpy as np
import pytest
import tensorflow as tf
from official.core import config_definitions as cfg

from mnv2_hpu.dataloaders import segmentation_input
from mnv2_hpu.dataloaders.input_fields import DataFields, SegmentationOptions
from mnv2_hpu.errors import UserError

DRAWS = 1000
STATS = helpers_deeplab.load_json("augmentation_stats.json")["97x129_to_65"]


@dataclasses.dataclass
class DataConfig(DataFields, cfg.DataConfig):
  """The fields that a segmenter's input reads."""

  preprocessing_options: SegmentationOptions = dataclasses.field(
    default_factory=SegmentationOptions
  )


def config(path, is_training, **fields):
  return DataConfig(
    input_path=str(path), is_training=is_training, global_batch_size=2, **fields
  )


# ---- Against the original ----


@pytest.mark.parametrize("factor", ["0.50", "0.75", "1.25", "2.00"])
def test_scaling_is_the_originals(factor):
  arrays = helpers_deeplab.load("preprocess_exact.npz")
  image = helpers_deeplab.images(5252, 1, 61, 83)[0]
  mask = helpers_deeplab.label_maps(5253, 1, 61, 83)[0]
  image, mask = segmentation_input.scale(image, mask, tf.constant(float(factor)))
  key = f"scaled_{factor}"
  np.testing.assert_array_equal(mask[..., 0], arrays[f"{key}/labels"])
  every_third = arrays[f"{key}/image_every_3rd"]
  np.testing.assert_allclose(image[::3, ::3], every_third, rtol=0, atol=1e-4)
  found = golden_recipes.checksum(image)
  np.testing.assert_allclose(found, arrays[f"{key}/image_checksum"], rtol=1e-6)


def test_padding_is_the_originals():
  arrays = helpers_deeplab.load("preprocess_exact.npz")
  size = json.loads(str(arrays["meta"]))["eval_crop"]
  image = helpers_deeplab.images(5252, 1, 61, 83)[0]
  mask = helpers_deeplab.label_maps(5253, 1, 61, 83)[0]
  image, mask = segmentation_input.pad(image, mask, (size, size), 255)
  np.testing.assert_array_equal(mask[..., 0], arrays["eval_padded/labels"])
  np.testing.assert_array_equal(image[::5, ::5], arrays["eval_padded/image_every_5th"])


@pytest.fixture(scope="module")
def draws():
  """Scale, offsets, flip and padded share of augmented images.

  Of the image, each pixel holds its own row and column, so that a crop tells where it
  is from.
  """
  rows, columns = np.meshgrid(np.arange(97), np.arange(129), indexing="ij")
  image = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.float32)
  mask = np.zeros([97, 129, 1], np.uint8)

  @tf.function
  def run(seeds):
    def one(seed):
      return segmentation_input.augment(
        image, mask, (65, 65), 255, SegmentationOptions(), seed
      )

    return tf.map_fn(one, seeds, fn_output_signature=(tf.float32, tf.uint8))

  seeds = np.stack([np.full(DRAWS, 3), np.arange(DRAWS)], axis=1)
  images, masks = (x.numpy() for x in run(seeds))
  is_flipped = images[:, 0, 10, 1] < images[:, 0, 9, 1]
  images = np.where(is_flipped[:, None, None, None], images[:, :, ::-1], images)
  step = images[:, 10, 0, 0] - images[:, 9, 0, 0]
  height = np.rint(96 / step + 1).astype(int)
  column_step = 128 / (np.trunc(129 * np.rint(height / 97 * 4) / 4) - 1)
  # A flipped crop that is padded begins with padding.
  is_whole = height >= 65
  top = np.where(is_whole, np.rint(images[:, 0, 0, 0] / step), 0)
  left = np.where(is_whole, np.rint(images[:, 0, 0, 1] / column_step), 0)
  return height, top, left, is_flipped, (masks == 255).mean(axis=(1, 2, 3))


def test_scales_are_drawn_as_by_the_original(draws):
  heights = draws[0]
  expected = {case["scaled"][0]: case["share"] for case in STATS["scales"].values()}
  assert set(heights) == set(expected)
  for height, share in expected.items():  # 3.5 standard errors of two such samples
    assert abs(np.mean(heights == height) - share) < 0.055


def test_crops_flips_and_padding_are_drawn_as_by_the_original(draws):
  heights, top, left, is_flipped, padded = draws
  assert abs(is_flipped.mean() - STATS["flip_share"]) < 0.08
  assert abs(padded.mean() - STATS["padded_share"]) < 0.02
  for case in STATS["scales"].values():
    of_scale = heights == case["scaled"][0]
    for found, name, limit in ((top, "y", 0), (left, "x", 1)):
      places, largest = found[of_scale], case["max_offset"][limit]
      assert places.min() >= 0
      assert places.max() <= largest
      if case["scaled"][0] >= 65:
        quantiles = np.percentile(places, [25, 50, 75])
        expected = case[f"offset_{name}"][2:5]
        np.testing.assert_allclose(quantiles, expected, atol=0.2 * largest + 1)
      if 0 < largest < 40:  # small enough that each place is drawn
        assert places.max() == largest


# ---- Records ----


@pytest.fixture
def folder(tmp_path):
  return helpers.write_scenes(tmp_path)


def batches(data, size=(65, 65), **arguments):
  dataset = segmentation_input.build_dataset(
    data, size, helpers.NUM_CLASSES, 255, **arguments
  )
  return [(x.numpy(), y["masks"].numpy()) for x, y in dataset.take(7)]


def test_evaluation_pads_at_the_images_own_size(folder):
  read = batches(config(folder / "validation-*", is_training=False))
  images = np.concatenate([images for images, _ in read])
  masks = np.concatenate([masks for _, masks in read])
  assert images.shape == (6, 65, 65, 3)
  expected = [helpers.scene(1000 + i) for i in range(5)]
  order = [
    next(i for i, (_, m) in enumerate(expected) if (m == mask[:33, :41]).all())
    for mask in masks[:5]
  ]
  assert sorted(order) == [0, 1, 2, 3, 4]
  for image, index in zip(images, order, strict=False):
    pixels = (image[:33, :41] + 1) * 127.5
    np.testing.assert_allclose(pixels, expected[index][0], atol=1e-4)
  assert (masks[:, 33:] == 255).all()
  assert (masks[:, :, 41:] == 255).all()
  assert (masks[5] == 255).all()  # fills up the last batch
  assert not images[:, 33:].any()


def test_a_resumed_training_reads_the_same_batches(folder):
  data = config(folder / "train-*", is_training=True, seed=3)
  whole, resumed = batches(data), batches(data, start_step=4)
  for (images, masks), (again, masks_again) in zip(whole[4:], resumed, strict=False):
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(masks, masks_again)
  assert len({images.tobytes() for images, _ in whole}) == 7
  assert {*np.unique(whole[0][1])} <= {0, 1, 2, 255}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"mask": np.full([33, 41, 1], 7, np.uint8)}, "the label 7; num_classes is 3"),
    ({"image__segmentation__class__encoded": None}, "has no feature 'image/segm"),
    ({"image__segmentation__class__encoded": b"no PNG"}, "a mask that is no PNG"),
    (
      {"mask": np.zeros([33, 40, 1], np.uint8)},
      "a mask of 33 x 40 pixels, but an image",
    ),
  ],
)
def test_records_that_cannot_be_learned_from_are_refused(tmp_path, changes, message):
  image, mask = helpers.scene(0)
  record = helpers.record(image, changes.pop("mask", mask), **changes)
  others = [helpers.record(*helpers.scene(i)) for i in range(1, 4)]
  path = helpers.write(tmp_path / "train-00000-of-00001", [record, *others])
  for is_training in (True, False):
    data = config(path, is_training, max_corrupt_records=0)
    with pytest.raises(UserError, match=message):
      segmentation_input.check_input(data, (65, 65), helpers.NUM_CLASSES, 255)
    with pytest.raises((UserError, tf.errors.OpError), match=message):
      batches(data)


def test_an_image_beyond_the_padded_size_is_refused_in_evaluation_alone(tmp_path):
  record = helpers.record(*helpers.scene(0, (70, 41)))
  path = helpers.write(tmp_path / "train-00000-of-00001", [record, record])
  assert batches(config(path, is_training=True))[0][0].shape == (2, 65, 65, 3)
  data = config(path, is_training=False)
  with pytest.raises(UserError, match="70 x 41 pixels; evaluation pads to 65 x 65"):
    segmentation_input.check_input(data, (65, 65), helpers.NUM_CLASSES, 255)
  with pytest.raises((UserError, tf.errors.OpError), match="evaluation pads to 65"):
    batches(data)
