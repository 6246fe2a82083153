"""Collectives of ranks, where there is one; several are in test_rank_proof.py."""

import numpy as np
import tensorflow as tf

from mnv2_hpu.distribute import ranks


def test_gathered_values_keep_their_shape_and_type():
  strategy = tf.distribute.get_strategy()
  for value in (np.array(7, np.int64), np.ones([2, 3], np.float32), np.zeros([0, 2])):
    gathered = ranks.gather(strategy, value)
    assert gathered.shape == (1, *value.shape)
    assert gathered.dtype == value.dtype
    np.testing.assert_array_equal(gathered[0], value)
