"""A small network whose EMA weights differ from its raw ones, and its export."""

import numpy as np
import pytest
import tensorflow as tf
from helpers_serving import (
  NUM_CLASSES,
  NUM_RECORDS,
  OPTIONS,
  Trained,
  experiment,
  write_records,
)

import mnv2_hpu


@pytest.fixture(scope="module")
def trained(small_network, tmp_path_factory):
  mnv2_hpu.register()
  from official.core import task_factory

  from mnv2_hpu.compat import keras
  from mnv2_hpu.optimization.exponential_moving_average import ExponentialMovingAverage

  folder = tmp_path_factory.mktemp("trained")
  rng = np.random.default_rng(0)
  # Of several sizes and aspect ratios.
  shapes = [(24 + i % 5 * 11, 60 - i % 3 * 13, 3) for i in range(NUM_RECORDS)]
  images = [rng.integers(0, 256, shape, np.uint8) for shape in shapes]
  labels = rng.integers(0, NUM_CLASSES, NUM_RECORDS).tolist()
  write_records(folder / "validation-00000-of-00002", images[:70], labels[:70])
  write_records(folder / "validation-00001-of-00002", images[70:], labels[70:])

  params = experiment(
    input_path=str(folder / "validation-*"), preprocessing_options=OPTIONS.as_dict()
  )
  model = task_factory.get_task(params.task).build_model()

  def set_randomly():
    for variable in model.variables:
      shape = variable.shape.as_list()
      if len(shape) > 1:  # a kernel, of a size that lets features live
        fan_in = 9 if "depthwise" in variable.name else np.prod(shape[:-1])
        variable.assign(rng.normal(0, np.sqrt(2 / fan_in), shape))
      else:
        start = 1.0 if "gamma" in variable.name or "variance" in variable.name else 0.0
        variable.assign(start + rng.uniform(0, 0.2, shape))

  set_randomly()
  optimizer = ExponentialMovingAverage(keras.optimizers.legacy.SGD(0.1))
  optimizer.shadow_copy(model)
  set_randomly()
  raw = model.get_weights()
  checkpoint = tf.train.Checkpoint(
    model=model, optimizer=optimizer, global_step=tf.Variable(42, dtype=tf.int64)
  ).write(str(folder / "ckpt-42"))
  optimizer.swap_weights()
  return Trained(params, checkpoint, model, raw, images, str(folder / "validation-*"))


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
  """Three formats, EMA weights."""
  from mnv2_hpu.serving import export

  return export.export(
    trained.params,
    trained.checkpoint,
    str(tmp_path_factory.mktemp("export")),
    formats=[*export.DEFAULT_FORMATS, "onnx"],
    label_names=[f"class {i}" for i in range(NUM_CLASSES)],
  )
