"""Losses and their gradients against research/deeplab's."""

import golden_recipes
import helpers_deeplab
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.modeling import resize, segmentation_loss

CASES = {case["name"]: case for case in helpers_deeplab.load_json("losses.json")}


def drawn(text):
  """Evaluates `recipes_deeplab.logits(5202, 2, 9, 9, 21)`, as goldens state inputs."""
  name, _, numbers = text.removeprefix("recipes_deeplab.").partition("(")
  arguments = [int(number) for number in numbers.rstrip(")").split(",")]
  return getattr(helpers_deeplab, name)(*arguments[:4])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.fidelity
def test_losses_and_gradients_are_the_originals(name, fidelity):
  case = CASES[name]
  logits, labels = tf.constant(drawn(case["logits"])), drawn(case["labels"])
  if name == "all_ignored":
    labels[:] = 255
  if name == "label_above_classes":
    labels[:, :3] = 25
  arguments = case["arguments"]
  share = segmentation_loss.hard_pixel_share(
    arguments.get("top_k_percent_pixels", 1.0),
    arguments.get("hard_example_mining_step", 0),
    tf.constant(case["global_step"]),
  )
  with tf.GradientTape() as tape:
    tape.watch(logits)
    resized = segmentation_loss.at_size_of_labels(
      logits, labels, arguments.get("upsample_logits", True)
    )
    losses, valid = segmentation_loss.pixel_losses(
      *resized, class_weights=arguments.get("loss_weight", ())
    )
    if "top_k_percent_pixels" in arguments:
      loss = segmentation_loss.hardest_pixels_loss(losses, share)
    else:
      loss = segmentation_loss.mean_loss(losses, tf.reduce_sum(valid))
  fidelity(
    f"segmentation loss, {name}", case["loss"], float(loss), loss - case["loss"], 2e-6
  )
  np.testing.assert_allclose(loss, case["loss"], rtol=0, atol=2e-6)
  found = golden_recipes.checksum(tape.gradient(loss, logits))
  expected = np.array(case["gradient_checksum"])
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * (expected[1] + 1e-9))


@pytest.mark.parametrize("size", [(9, 9), (33, 17), (1, 5), (200, 131)])
def test_labels_are_resized_as_by_tensorflow_1(size):
  labels = helpers_deeplab.label_maps(1, 2, 129, 97)
  original = tf.compat.v1.image.resize_nearest_neighbor(
    labels, size, align_corners=True
  )
  np.testing.assert_array_equal(resize.resize_nearest(labels, size), original)
