"""Lines of predictions that people read."""

import numpy as np

from mnv2_hpu.evaluation import prediction_rows
from mnv2_hpu.evaluation.prediction_fields import Area, Prediction


def test_specks_are_counted_and_not_named():
  areas = (
    Area("ground", 8996, 0.8996, 0),
    Area("cat", 1000, 0.1, 1),
    Area("dog", 3, 0.0003, 2),
    Area("owl", 1, 0.0001, 3),
  )
  result = Prediction("a.png", areas=areas, mask=np.zeros([100, 100], np.uint8))
  _, row = prediction_rows.FORMATS["segmentation"]["table"]
  assert row(result).endswith("  ground 90.0%  cat 10.0%  2 below 0.1%")
