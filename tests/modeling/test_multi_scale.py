"""Averaged predictions against research/deeplab's."""

import json

import golden_recipes
import helpers_deeplab
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.modeling import multi_scale


@pytest.fixture(scope="module")
def golden():
  """Golden values, what they were computed from, and the network."""
  arrays = helpers_deeplab.load("multi_scale.npz")
  meta = json.loads(str(arrays["meta"]))
  return arrays, meta, helpers_deeplab.build("v3_os16", weight_seed=meta["weight_seed"])


@pytest.mark.parametrize("way", ["single", "flip", "multi_flip"])
@pytest.mark.fidelity
def test_probabilities_and_labels_are_the_originals(golden, way, fidelity):
  arrays, meta, model = golden
  images = tf.constant(helpers_deeplab.normalized_images(5240, 1, *meta["crop_size"]))
  scales = meta["scales"] if way == "multi_flip" else (1.0,)
  found = multi_scale.mean_probabilities(model, images, scales, flip=way != "single")[0]
  key = f"v3_os16/{way}"
  difference = np.abs(found[::8, ::8] - arrays[f"{key}/mean_softmax_every_8th"]).max()
  checksum = golden_recipes.checksum(found)
  fidelity(
    f"mean probabilities, {way}",
    f"norm {arrays[f'{key}/mean_softmax_checksum'][1]:.6g}",
    f"norm {checksum[1]:.6g}",
    difference,
    5e-5,
  )
  assert difference < 5e-5
  differs = np.argmax(found, axis=-1) != arrays[f"{key}/labels"]
  assert not (differs & ~arrays[f"{key}/margin"]).any()
