"""A run ends without Model Garden's count of operations."""

from official.core import train_utils

import mnv2_hpu
from mnv2_hpu.compat import keras


def test_operations_are_counted_for_an_export_alone(tmp_path):
  mnv2_hpu.register()
  model = keras.Sequential([keras.layers.Dense(4, use_bias=False, input_shape=(3,))])
  assert train_utils.try_count_flops(model) is None
  path = tmp_path / "count"
  assert train_utils.try_count_flops(model, output_path=str(path)) == 2 * 3 * 4
  assert path.stat().st_size
