"""The classification task: precision, padding, loss; against values by hand."""

import numpy as np
import pytest
import tensorflow as tf
from official.core import task_factory
from official.modeling import performance
from official.vision.configs import backbones as upstream_backbones

import mnv2_hpu
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import backbones
from mnv2_hpu.configs import image_classification as exp_cfg
from mnv2_hpu.errors import UserError

mnv2_hpu.register()

pytestmark = pytest.mark.usefixtures("small_network")


@pytest.fixture(params=["float32", "bfloat16"])
def compute_dtype(request):
  performance.set_mixed_precision_policy(request.param)
  yield request.param
  performance.set_mixed_precision_policy("float32")


def _task(num_classes=7):
  config = exp_cfg.ImageClassificationTask(
    model=exp_cfg.ImageClassificationModel(
      num_classes=num_classes,
      input_size=[32, 32, 3],
      backbone=upstream_backbones.Backbone(
        type="mobilenet_v2",
        mobilenet_v2=backbones.MobileNetV2(width_multiplier=0.35),
      ),
    )
  )
  config.losses.label_smoothing = 0.1
  config.losses.l2_weight_decay = 4e-5
  config.evaluation.top_k = 5
  return task_factory.get_task(config)


def test_inner_layers_compute_in_the_chosen_dtype(compute_dtype):
  model = _task().build_model()
  seen = {}
  inner = model.backbone.get_layer("expanded_conv_1/depthwise")
  probe = keras.Model(model.backbone.input, inner.output)
  seen["inner"] = probe(tf.zeros([1, 32, 32, 3])).dtype.name
  seen["logits"] = model(tf.zeros([1, 32, 32, 3])).dtype.name
  assert seen == {"inner": compute_dtype, "logits": "float32"}
  assert {variable.dtype.name for variable in model.variables} == {"float32"}


def test_loss_is_float32(compute_dtype):
  task = _task()
  model = task.build_model()
  optimizer = keras.optimizers.legacy.SGD(0.1)
  inputs = (tf.zeros([2, 32, 32, 3]), tf.constant([1, 3]))
  logs = task.train_step(inputs, model, optimizer)
  assert logs["loss"].dtype == tf.float32


def test_padding_counts_nowhere():
  """Metrics over a padded batch equal those by hand over its real images."""
  task = _task()
  model = task.build_model()
  images = tf.random.stateless_uniform([6, 32, 32, 3], seed=[1, 2])
  labels = np.array([0, 3, 6, 2, -1, -1])
  metrics = task.build_metrics(training=False)
  task.validation_step((images, tf.constant(labels)), model, metrics)
  values = {metric.name: float(metric.result()) for metric in metrics}

  logits = model(images, training=False).numpy().astype(np.float64)[:4]
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  target = np.full([4, 7], 0.1 / 7)
  target[np.arange(4), labels[:4]] += 0.9
  cross_entropy = -(target * log_p).sum(-1).mean()
  decayed = [v for v in model.trainable_variables if "/kernel" in v.name]
  decay = 4e-5 * sum((v.numpy().astype(np.float64) ** 2).sum() for v in decayed) / 2
  rank = (logits > logits[np.arange(4), labels[:4]][:, None]).sum(-1)
  assert values["validation_loss"] == pytest.approx(cross_entropy + decay, rel=1e-5)
  assert values["accuracy"] == pytest.approx((rank == 0).mean())
  assert values["top_5_accuracy"] == pytest.approx((rank < 5).mean())


def test_second_step_does_not_trace_again():
  task = _task()
  model = task.build_model()
  optimizer = keras.optimizers.legacy.SGD(0.01)
  traces = []

  @tf.function
  def step(images, labels):
    traces.append(1)
    return task.train_step((images, labels), model, optimizer)["loss"]

  after_each = []
  for seed in range(3):
    images = tf.random.stateless_uniform([4, 32, 32, 3], seed=[seed, 0])
    assert np.isfinite(step(images, tf.constant([0, 1, 2, 3])).numpy())
    after_each.append(len(traces))
  # The first call traces twice: the optimizer creates its variables in the first.
  assert after_each == [2, 2, 2]


def test_frozen_backbone_trains_the_logits_only():
  task = _task()
  task.task_config.freeze_backbone = True
  model = task.build_model()
  names = [variable.name for variable in model.trainable_variables]
  assert len(names) == 2, names


def _started_from(checkpoint, folder):
  config = exp_cfg.ImageClassificationTask(init_checkpoint=str(checkpoint))
  return task_factory.get_task(config, logging_dir=str(folder))


def test_a_start_that_cannot_be_read_is_said_before_anything_is_built(tmp_path):
  (tmp_path / "weights.h5").write_bytes(b"\x89HDF")
  (tmp_path / "empty").mkdir()
  (tmp_path / "torn.index").write_bytes(b"no checkpoint")
  (tmp_path / "torn.data-00000-of-00001").write_bytes(b"")
  slim = tf.compat.v1.train.Saver({"v": tf.Variable(1.0)}).save(
    None, str(tmp_path / "slim"), write_meta_graph=False
  )
  for checkpoint, expected in (
    (tmp_path / "missing", r"missing\.index is missing"),
    (tmp_path / "weights.h5", "Keras weights in HDF5"),
    (tmp_path / "empty", "holds no checkpoint"),
    (tmp_path / "torn", "cannot be read"),
    (slim, "mnv2-import-checkpoint"),
  ):
    with pytest.raises(UserError, match=f"init_checkpoint is .*{expected}") as raised:
      _started_from(checkpoint, tmp_path / "run")
    assert "\n" not in str(raised.value)


def test_a_resumed_run_needs_its_start_no_more(tmp_path):
  tf.train.CheckpointManager(
    tf.train.Checkpoint(step=tf.Variable(1)), str(tmp_path), max_to_keep=1
  ).save()
  assert _started_from("gone", tmp_path).task_config.init_checkpoint == "gone"


def test_a_start_of_another_network_is_said(tmp_path):
  path = tf.train.Checkpoint(model=_task(num_classes=3).build_model()).write(
    str(tmp_path / "other")
  )
  task = _task(num_classes=7)
  task.task_config.init_checkpoint = path
  task.task_config.init_checkpoint_modules = "all"
  with pytest.raises(UserError, match="its all does not fit this network") as raised:
    task.initialize(task.build_model())
  assert "\n" not in str(raised.value)
