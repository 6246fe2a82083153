"""Aligned-corner resizing against TensorFlow 1's kernel."""

import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.modeling import resize

SIZES = [(33, 65), (1, 1), (5, 40), (9, 13), (4, 13), (129, 2)]


@pytest.mark.parametrize("height", [9, 1])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("is_static", [True, False])
def test_it_equals_the_kernel_of_tensorflow_1(height, size, is_static):
  x = np.random.uniform(-1, 1, (2, height, 13, 5)).astype(np.float32)
  signature = tf.TensorSpec(x.shape if is_static else (None, None, None, 5))
  run = tf.function(lambda x: resize.resize_bilinear(x, size), [signature])
  original = tf.compat.v1.image.resize_bilinear(x, size, align_corners=True)
  np.testing.assert_allclose(run(x), original, rtol=0, atol=2e-6)


def test_static_sizes_leave_no_operation_but_matrix_products():
  run = tf.function(lambda x: resize.resize_bilinear(x, (33, 65)))
  graph = run.get_concrete_function(tf.TensorSpec((2, 9, 13, 5))).graph
  kinds = {operation.type for operation in graph.get_operations()}
  assert kinds <= {
    "Placeholder",
    "Const",
    "Reshape",
    "BatchMatMulV2",
    "Identity",
    "Cast",
  }


def test_the_same_size_is_left_as_it_is():
  x = np.random.uniform(-1, 1, (1, 4, 5, 3)).astype(np.float32)
  np.testing.assert_array_equal(resize.resize_bilinear(tf.constant(x), (4, 5)), x)
