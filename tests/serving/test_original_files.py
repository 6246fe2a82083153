"""What an export makes of users' own files equals what training made of them."""

import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.data_preparation import images
from mnv2_hpu.serving import sample_images
from mnv2_hpu.serving.image_classification import ClassificationModule


@pytest.mark.parametrize("significant_bits", [16, 12])
def test_original_files_give_the_logits_of_what_preparation_stores(
  trained, significant_bits
):
  samples = sample_images.sample_images()
  module = ClassificationModule(
    trained.params, model=trained.model, significant_bits=significant_bits
  )
  stored = [
    images.read(data, significant_bits=significant_bits).encoded
    for data in samples.values()
  ]
  of_files, of_stored = (
    module.inference_from_image_bytes(tf.constant(encoded))["logits"].numpy()
    for encoded in (list(samples.values()), stored)
  )
  for kind, ours, theirs in zip(samples, of_files, of_stored, strict=True):
    tolerance = 0.15 if kind.startswith("JPEG") else 1e-4
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, atol=tolerance * scale, err_msg=kind)
