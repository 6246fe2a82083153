"""Targets, losses and detections against the TF1 Object Detection API."""

import golden_detection as golden
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.modeling import multibox, ssdlite

ANCHORS = ssdlite.anchors(300, 300)
FIELDS = ("match", "box_targets", "class_targets", "box_weights")
CASES = (
  *("none", "one", "overlap", "tiny", "whole", "degenerate", "outside"),
  *("thin", "many"),
)


@pytest.fixture(scope="module")
def cases():
  return golden.load("targets.npz")[0]


def _targets(cases, name):
  return multibox.assign_targets(
    ANCHORS, cases[f"{name}/boxes"], cases[f"{name}/classes"], 7
  )


@pytest.mark.parametrize("name", CASES)
def test_anchors_match_the_boxes_that_the_original_matches(cases, name):
  targets = _targets(cases, name)
  positive = cases[f"{name}/positive"]
  assert np.array_equal(targets.match, cases[f"{name}/match"])
  assert np.array_equal(np.flatnonzero(targets.box_weights), positive)
  classes = np.argmax(targets.class_targets, axis=-1)
  assert np.array_equal(classes[positive], cases[f"{name}/cls_argmax_positive"])
  assert not np.delete(classes, positive).any()
  expected = cases[f"{name}/reg_targets_positive"]
  error = np.abs(targets.box_targets.numpy()[positive] - expected)
  assert np.all(error <= 2e-5 * np.maximum(1, np.abs(expected)))


def test_padding_is_given_no_anchor(cases):
  boxes, classes = cases["tiny/boxes"], cases["tiny/classes"]
  rows = ((0, 5), (0, 0))
  padded = multibox.assign_targets(
    ANCHORS, np.pad(boxes, rows), np.pad(classes, rows[:1], constant_values=-1), 7
  )
  alone = _targets(cases, "tiny")
  for field in FIELDS:
    assert np.array_equal(getattr(padded, field), getattr(alone, field)), field


def _batch(cases, names):
  each = [_targets(cases, name) for name in names]
  return multibox.Targets(
    *(tf.stack([getattr(one, field) for one in each]) for field in FIELDS)
  )


@pytest.mark.parametrize(
  "name", ["mixed", "none", "many", "outside", "perfect", "degenerate"]
)
def test_losses_selections_and_gradients_are_the_originals(cases, name):
  arrays, meta = golden.load("loss.npz")
  batch = meta["batches"][name]
  targets = _batch(cases, batch["images"])
  encodings, logits = map(
    tf.constant, golden.predictions(batch["seed"], len(batch["images"]), 1917, 7)
  )
  encodings = tf.constant(arrays.get(f"{name}/box_encodings", encodings))
  with tf.GradientTape() as tape:
    tape.watch([encodings, logits])
    losses = multibox.multibox_loss(encodings, logits, targets, ANCHORS)
    total = tf.add_n(losses)
  expected = [
    arrays[f"{name}/{kind}_loss"] for kind in ("localization", "classification")
  ]
  assert np.allclose(losses, expected, rtol=5e-5, atol=1e-7)
  cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(targets.class_targets, logits)
  mined = multibox.mine(
    multibox.decode_boxes(encodings, ANCHORS),
    tf.reduce_sum(cross_entropy, axis=-1),
    targets.match >= 0,
  )
  for image, selected in enumerate(mined):
    assert np.array_equal(
      np.flatnonzero(selected), np.sort(arrays[f"{name}/{image}/selected"])
    )
  gradients = tape.gradient(total, [encodings, logits])
  for gradient, key in zip(gradients, ("encodings", "logits"), strict=True):
    checksum = arrays[f"{name}/grad_{key}_ck"][:2]
    difference = golden.checksum(gradient) - checksum
    assert np.all(np.abs(difference) <= 5e-5 * checksum[1] + 1e-7)


def test_an_image_without_boxes_trains_three_negatives(cases):
  targets = _batch(cases, ["none"])
  encodings, logits = golden.predictions(0, 1, 1917, 7)
  mined = multibox.mine(
    multibox.decode_boxes(encodings, ANCHORS),
    tf.reduce_sum(tf.nn.softplus(logits), axis=-1),
    targets.match >= 0,
  )
  assert np.sum(mined) == multibox.MIN_NEGATIVES


def _few(name):
  if name == "clusters":
    return golden.confident_predictions(2200, 2, 1917, 90)
  if name == "wide":  # boxes that lie outside of the image
    encodings, logits = golden.confident_predictions(2203, 1, 1917, 90)
    return encodings * np.float32(8), logits + 1
  encodings, logits = golden.confident_predictions(2202, 2, 1917, 90, peaks=3, run=4)
  logits[logits < -5] = -25
  logits[1] = -25
  return encodings, logits


@pytest.mark.parametrize("name", ["clusters", "few", "wide"])
def test_detections_are_the_originals(name):
  arrays, _ = golden.load("postprocess.npz")
  found = multibox.postprocess(*_few(name), ANCHORS)
  boxes, scores, classes, counts = (value.numpy() for value in found)
  assert np.array_equal(counts, arrays[f"{name}/num_detections"])
  assert np.array_equal(classes, arrays[f"{name}/detection_classes"])
  assert np.allclose(scores, arrays[f"{name}/detection_scores"], atol=1e-6)
  assert np.allclose(boxes, arrays[f"{name}/detection_boxes"], atol=2e-6)


def test_fewer_anchors_than_detections_are_padded():
  anchors = ssdlite.anchors(16, 16)
  encodings, logits = golden.predictions(0, 2, len(anchors), 3)
  boxes, scores, classes, counts = multibox.postprocess(encodings, logits, anchors)
  assert boxes.shape == (2, 100, 4)
  assert scores.shape == classes.shape == (2, 100)
  assert np.all(counts <= 3 * len(anchors))
  assert not np.any(scores.numpy()[0, counts[0] :])
