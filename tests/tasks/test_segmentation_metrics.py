"""Mean and per-class IoU against research/deeplab's `eval.py`."""

import helpers_deeplab
import numpy as np
import pytest

from mnv2_hpu.tasks import segmentation_metrics

CASES = {case["case"]: case for case in helpers_deeplab.load_json("miou.json")}


@pytest.mark.fidelity
def test_it_is_what_the_original_counts(fidelity):
  """A set in which two classes are nowhere, and one is only predicted."""
  arrays, case = helpers_deeplab.load("miou_absent.npz"), CASES["absent"]
  metric = segmentation_metrics.MeanIoU(helpers_deeplab.NUM_CLASSES)
  for labels, predictions in zip(arrays["labels"], arrays["predictions"], strict=True):
    metric.update_state(labels, predictions)
  difference = metric.result() - case["miou"]
  fidelity(
    "mean IoU, classes absent", case["miou"], float(metric.result()), difference, 1e-6
  )
  assert abs(difference) < 1e-6
  ious = segmentation_metrics.class_ious(metric.confusion.numpy())
  expected = np.array(case["per_class"], np.float64)
  np.testing.assert_allclose(ious, expected, rtol=1e-6, equal_nan=True)


def test_it_counts_beyond_float32():
  metric = segmentation_metrics.MeanIoU(2)
  metric.confusion.assign([[2**24, 0], [0, 1]])
  metric.update_state(np.zeros([1, 3, 1], int), np.zeros([1, 3, 1], int))
  assert metric.confusion.numpy().tolist() == [[2**24 + 3, 0], [0, 1]]


@pytest.mark.parametrize("ignore_label", [255, 0])
def test_ignored_pixels_do_not_count(ignore_label):
  metric = segmentation_metrics.MeanIoU(3, ignore_label)
  metric.update_state(np.array([ignore_label, 1, 2]), np.array([1, 1, 2]))
  assert metric.confusion.numpy().sum() == 2
  assert float(metric.result()) == 1


def test_no_pixel_is_no_number_below_zero():
  assert float(segmentation_metrics.MeanIoU(3).result()) == 0
