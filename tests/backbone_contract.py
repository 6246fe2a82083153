"""What Model Garden, the trainer and the exporters expect of every backbone.

A new backbone's test calls `check_backbone`, as `tests/modeling/test_mobilenet_v2.py`
does. The checks are public, for tests of a backbone's further arguments.
"""

import json
import math
import re

import numpy as np
import tensorflow as tf

from mnv2_hpu.compat import keras

SIZES = ((64, 64), (65, 33), (33, 47), (1, 2))
BATCH_SIZE = 4
MIN_GRADIENT_NORM = 1e-6


def check_backbone(
  build, num_trainable, num_parameters, channels, zero_gradients="(?!)", sizes=SIZES
):
  """Checks all that this project relies on.

  Args:
    build: Returns a new backbone; called with `input_specs`, or with no argument for
      color images of any size.
    num_trainable: Number of trainable parameters.
    num_parameters: Number of all parameters.
    channels: Output channels by key, such as `{"2": 24, "3": 32}`.
    zero_gradients: Regular expression of the names of trainable weights that nothing
      depends on during training, such as a bias before a batch norm.
    sizes: Image sizes, `(height, width)`, that the backbone must accept.
  """
  backbone = build()
  check_parameters(backbone, num_trainable, num_parameters)
  check_shapes(backbone, channels, sizes)
  check_output_specs(build, channels)
  check_config(backbone)
  check_gradients(backbone, zero_gradients)
  check_single_trace(backbone)
  check_dtypes(build)
  check_freezing(backbone)


def _images(height=64, width=64, channels=3):
  """Returns noise in [-1, 1], float32 `[BATCH_SIZE, height, width, channels]`."""
  return tf.random.stateless_uniform(
    (BATCH_SIZE, height, width, channels), (0, 1), -1, 1
  )


def check_parameters(backbone, num_trainable, num_parameters):
  """Compares the exact numbers of parameters."""
  trainable = sum(math.prod(v.shape) for v in backbone.trainable_variables)
  assert (trainable, backbone.count_params()) == (num_trainable, num_parameters)


def check_shapes(backbone, channels, sizes=SIZES):
  """Compares the features with `[batch, ceil(size / stride), ..., channels]`.

  The stride of level l is 2**l; a level that `output_specs` lacks is a classifier's
  input and has the size of the last level.
  """
  assert backbone.output_specs.keys() <= channels.keys()
  last = max(int(key.split("/")[0]) for key in backbone.output_specs)
  for height, width in sizes:
    outputs = backbone(_images(height, width, backbone.input_shape[-1]))
    expected = {}
    for key, depth in channels.items():
      stride = 2 ** min(int(key.split("/")[0]), last)
      sides = math.ceil(height / stride), math.ceil(width / stride)
      expected[key] = [BATCH_SIZE, *sides, depth]
    assert {key: value.shape.as_list() for key, value in outputs.items()} == expected


def check_output_specs(build, channels, size=(64, 96)):
  """Checks that `output_specs` are the static shapes of the outputs."""
  shape = [None, *size, 3]
  backbone = build(input_specs=keras.layers.InputSpec(shape=shape))
  assert backbone.input_shape == tuple(shape)
  assert backbone.output.keys() == channels.keys()
  for key, spec in backbone.output_specs.items():
    assert spec == backbone.output[key].shape
    assert spec.is_compatible_with([1, None, None, channels[key]])


def check_config(backbone):
  """Rebuilds the backbone from its config, by way of JSON; returns the second one."""
  config = json.loads(json.dumps(backbone.get_config()))
  again = type(backbone).from_config(config)
  assert json.loads(json.dumps(again.get_config())) == config
  assert again.name == backbone.name
  assert again.input_shape == backbone.input_shape
  assert [v.name for v in again.variables] == [v.name for v in backbone.variables]
  assert [v.name for v in again.trainable_variables] == [
    v.name for v in backbone.trainable_variables
  ]
  assert dict(again.output_specs) == dict(backbone.output_specs)
  assert len(again.losses) == len(backbone.losses)
  return again


def _loss(backbone):
  """Returns a scalar that depends on all outputs of a training step."""
  outputs = backbone(_images(), training=True).values()
  means = [tf.cast(tf.reduce_mean(o, axis=[1, 2]), tf.float32) for o in outputs]
  return tf.add_n([tf.reduce_mean(tf.square(mean)) for mean in means])


def check_gradients(backbone, zero_gradients="(?!)"):
  """Checks that each trainable weight has a finite gradient that is not zero."""
  weights = backbone.trainable_variables
  with tf.GradientTape() as tape:
    loss = _loss(backbone)
  for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
    assert gradient is not None, weight.name
    assert np.isfinite(gradient).all(), weight.name
    if not re.search(zero_gradients, weight.name):
      assert float(tf.norm(gradient)) > MIN_GRADIENT_NORM, weight.name


def check_single_trace(backbone):
  """Checks that a second training step does not trace again."""
  traces = []

  @tf.function
  def step(scale):
    traces.append(scale)
    with tf.GradientTape() as tape:
      loss = scale * _loss(backbone)
    return tape.gradient(loss, backbone.trainable_variables)

  for scale in (1.0, 2.0):
    step(tf.constant(scale))
  assert len(traces) == 1


def check_dtypes(build, policies=("float32", "mixed_bfloat16")):
  """Checks dtypes under each of Keras' policies: float32 weights and statistics."""
  before = keras.mixed_precision.global_policy()
  try:
    for policy in policies:
      keras.mixed_precision.set_global_policy(policy)
      check_dtypes_of(build())
  finally:
    keras.mixed_precision.set_global_policy(before)


def check_dtypes_of(backbone, operations=None):
  """Checks that a backbone computes in the dtype of the current policy.

  Args:
    backbone: A backbone built under the current policy.
    operations: Number of operations of a training step by type, where known.
  """
  dtype = tf.as_dtype(keras.mixed_precision.global_policy().compute_dtype)
  layers = [x for x in backbone.layers if not isinstance(x, keras.layers.InputLayer)]
  assert {layer.compute_dtype for layer in layers} == {dtype.name}
  assert {v.dtype for v in backbone.variables} == {tf.float32}
  run = tf.function(lambda images: backbone(images, training=True))
  concrete = run.get_concrete_function(tf.TensorSpec([BATCH_SIZE, 64, 64, 3]))
  assert {o.dtype for o in concrete.structured_outputs.values()} == {dtype}
  found = {"Conv2D": [], "DepthwiseConv2dNative": [], "FusedBatchNormV3": []}
  for operation in concrete.graph.get_operations():
    if operation.type in found:
      found[operation.type].append(operation)
      assert operation.get_attr("T") == dtype, operation.name
    if operation.type == "FusedBatchNormV3":
      assert operation.get_attr("U") == tf.float32, operation.name  # the statistics
  if operations:
    assert {kind: len(of_kind) for kind, of_kind in found.items()} == operations


def check_freezing(backbone):
  """Checks that a frozen backbone trains nothing and keeps its batch statistics."""
  backbone.trainable = False
  assert backbone.trainable_variables == []
  before = backbone.get_weights()
  images = _images()
  training, inference = (backbone(images, training=mode) for mode in (True, False))
  for key, features in training.items():
    np.testing.assert_array_equal(features, inference[key], err_msg=key)
  for old, new in zip(before, backbone.get_weights(), strict=True):
    np.testing.assert_array_equal(old, new)
