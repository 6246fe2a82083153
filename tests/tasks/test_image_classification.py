"""The classification task: precision, padding, loss; against values by hand."""

import re

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
from mnv2_hpu.dataloaders import inception_preprocessing
from mnv2_hpu.errors import UserError
from mnv2_hpu.optimization.exponential_moving_average import ExponentialMovingAverage
from mnv2_hpu.optimization.rmsprop_tf1 import RMSpropTF1

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


def test_the_step_finishes_what_the_host_did_not():
  """The loss is that of the images which `finish_on_device` returns."""
  random = np.random.default_rng(0)
  features = {
    "image": tf.constant(random.integers(0, 256, (2, 32, 32, 3), np.uint8)),
    "colors": tf.constant([[0.1, 1.5], [-0.1, 0.5]]),
  }
  labels = tf.constant([1, 3])
  losses = []
  for on_device in (True, False):
    images = features
    if not on_device:
      images = inception_preprocessing.finish_on_device(features)
    task = _task()
    options = task.task_config.train_data.preprocessing_options
    options.preprocess_on_device = on_device
    logs = task.train_step(
      (images, labels), task.build_model(), keras.optimizers.legacy.SGD(0.1)
    )
    losses.append(float(logs["loss"]))
  assert losses[0] == losses[1]


class _Doubled(keras.layers.Layer):
  """A layer with Python's `if` over a tensor, which AutoGraph converts."""

  def call(self, inputs):
    if tf.reduce_sum(inputs) > 0.0:
      return 2.0 * inputs
    return inputs


def test_layers_of_a_users_backbone_may_have_pythons_control_flow():
  task = _task()
  image = keras.Input([32, 32, 3])
  logits = keras.layers.Dense(7)(keras.layers.Flatten()(_Doubled()(image)))
  model = keras.Model(image, logits)
  optimizer = keras.optimizers.legacy.SGD(0.1)
  step = tf.function(lambda batch: task.train_step(batch, model, optimizer)["loss"])
  assert np.isfinite(step((tf.ones([2, 32, 32, 3]), tf.constant([1, 3]))))


def test_frozen_backbone_trains_the_logits_only():
  task = _task()
  task.task_config.freeze_backbone = True
  model = task.build_model()
  names = [variable.name for variable in model.trainable_variables]
  assert len(names) == 2, names


def _step_of(task, model, optimizer):
  images = tf.random.stateless_uniform([4, 32, 32, 3], seed=[1, 0])
  task.train_step((images, tf.constant([0, 1, 2, 3])), model, optimizer)


def _values(variables):
  return [variable.numpy() for variable in variables]


def test_a_frozen_backbone_stays_bit_by_bit_batch_norm_included():
  task = _task()
  task.task_config.freeze_backbone = True
  model = task.build_model()
  images = tf.random.stateless_uniform([4, 32, 32, 3], seed=[1, 0])
  before = _values(model.backbone.variables)
  trained, inferred = (model.backbone(images, training=m)["2"] for m in (True, False))
  np.testing.assert_array_equal(trained, inferred)  # inference mode in training too
  head = _values(model.trainable_variables)
  _step_of(task, model, keras.optimizers.legacy.SGD(0.1))
  for value, variable in zip(before, model.backbone.variables, strict=True):
    np.testing.assert_array_equal(value, variable)
  assert not np.array_equal(head[0], model.trainable_variables[0])


@pytest.mark.parametrize("average", [False, True])
def test_the_backbone_is_updated_by_exactly_the_multiple(average):
  """A step of rmsprop_tf1, and its EMA; a quarter is exact in binary."""

  def train(rate, multiplier):
    task = _task()
    task.task_config.backbone_learning_rate_multiplier = multiplier
    task.task_config.losses.l2_weight_decay = 0.0
    model = task.build_model()
    optimizer = RMSpropTF1(rate)
    if average:
      optimizer = ExponentialMovingAverage(optimizer, average_decay=0.5)
      optimizer.shadow_copy(model)
    _step_of(task, model, optimizer)
    trained = [model.trainable_variables]
    if average:
      trained += [[optimizer.get_slot(v, "average") for v in trained[0]]]
    head = len(model.trainable_variables) - len(model.backbone.trainable_variables)
    return [(_values(kept[:-head]), _values(kept[-head:])) for kept in trained]

  for both, slow, fast in zip(
    train(0.2, 0.25), train(0.05, 1.0), train(0.2, 1.0), strict=True
  ):
    for part, expected in enumerate((slow, fast)):
      for value, wanted in zip(both[part], expected[part], strict=True):
        np.testing.assert_array_equal(value, wanted)
    assert not all(map(np.array_equal, slow[0], fast[0]))


def _start(tmp_path, content, modules, capsys):
  """Returns a network of 7 classes after its start, and what was said."""
  path = tf.train.Checkpoint(**content).write(str(tmp_path / "start"))
  task = _task(num_classes=7)
  task.task_config.init_checkpoint = path
  task.task_config.init_checkpoint_modules = modules
  model = task.build_model()
  task.initialize(model)
  return model, capsys.readouterr().out


def _source(num_classes):
  """A network whose every weight is unlike a fresh one's."""
  model = _task(num_classes).build_model()
  for variable in model.variables:
    variable.assign(variable + 0.5)
  return model


def _assert_equal(variables, expected):
  for variable, value in zip(variables, expected, strict=True):
    np.testing.assert_array_equal(variable, value)


def test_a_head_of_other_classes_is_left_out_and_said(tmp_path, capsys):
  source, fresh = _source(3), _task(7).build_model()
  content = {"model": source, **_backbone(source)}
  model, said = _start(tmp_path, content, "fitting", capsys)
  _assert_equal(model.backbone.variables, source.backbone.variables)
  _assert_equal(model.variables[-2:], fresh.variables[-2:])
  assert "2 variables above the backbone are initialized: " in said
  assert re.search(r"kernel:0 is \[1280, 3\] there, \[1280, 7\] here", said)
  assert said.count("\n") == 1


def test_a_head_that_fits_is_read(tmp_path, capsys):
  source = _source(7)
  model, said = _start(tmp_path, {"model": source}, "fitting", capsys)
  _assert_equal(model.variables, source.variables)
  assert "initialized" not in said


def test_a_backbone_alone_is_a_start(tmp_path, capsys):
  source = _source(3)
  model, said = _start(tmp_path, _backbone(source), "fitting", capsys)
  _assert_equal(model.backbone.variables, source.backbone.variables)
  assert "it has no head" in said


def test_a_start_of_another_width_is_refused(tmp_path, capsys):
  source = _task(7)
  source.task_config.model.backbone.get().width_multiplier = 0.5
  content = _backbone(source.build_model())
  with pytest.raises(UserError, match=r"\(fitting\) do not fit.*width_multiplier"):
    _start(tmp_path, content, "fitting", capsys)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_start_is_the_ema_weights_of_a_run(tmp_path, capsys, swapped):
  source = _source(7)
  optimizer = ExponentialMovingAverage(keras.optimizers.legacy.SGD(0.1))
  optimizer.shadow_copy(source)
  expected = _values(source.variables)
  for variable in source.variables:
    variable.assign(variable + 1.0)
  if swapped:  # as best_ckpt is written
    optimizer.swap_weights()
  content = {"model": source, "optimizer": optimizer, **_backbone(source)}
  model, said = _start(tmp_path, content, "fitting", capsys)
  _assert_equal(model.variables, expected)
  assert "starts from the EMA weights" in said


def _backbone(model):
  return {"backbone": model.backbone}


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
  with pytest.raises(
    UserError, match=r"its weights \(all\) do not fit this network"
  ) as raised:
    task.initialize(task.build_model())
  assert "\n" not in str(raised.value)
