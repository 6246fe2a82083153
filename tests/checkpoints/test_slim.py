"""Slim's checkpoints: the golden one, weights of other widths, and corruption."""

import functools
import json
import re
import shutil

import golden_recipes
import numpy as np
import pytest
import tensorflow as tf
from official.vision.modeling import classification_model

from mnv2_hpu.checkpoints import load_slim_checkpoint, slim
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling.mobilenet_v2 import MobileNetV2

FOLDER = golden_recipes.GOLDEN / "checkpoint"
PREFIX = str(FOLDER / "model.ckpt-1234")
EMA = "/ExponentialMovingAverage"
HEAD = "MobilenetV2/Logits/Conv2d_1c_1x1"
WEIGHTS = ("ema", "raw")

golden = functools.cache(golden_recipes.load)


@functools.cache
def network(width=0.35, num_classes=11, finegrain=True):
  backbone = MobileNetV2(width, finegrain_classification_mode=finegrain)
  return classification_model.ClassificationModel(backbone, num_classes)


@functools.cache
def golden_variables():
  reader = tf.train.load_checkpoint(PREFIX)
  return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def write(path, variables):
  """Writes arrays by name as TensorFlow 1's Saver does; returns the prefix."""
  tf.raw_ops.SaveV2(
    prefix=str(path),
    tensor_names=list(variables),
    shape_and_slices=[""] * len(variables),
    tensors=list(variables.values()),
  )
  return str(path)


def assert_golden_logits(model, weights):
  arrays, _ = golden("checkpoint_logits.npz")
  logits = model(golden_recipes.images(78, 4, 64))
  np.testing.assert_allclose(logits, arrays[f"logits_{weights}"], rtol=0, atol=1e-4)


# ---- What is read ----


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.fidelity
def test_golden_logits(weights, fidelity):
  model = network()
  read = load_slim_checkpoint(model, str(FOLDER), weights=weights)
  expected = golden("checkpoint_logits.npz")[0][f"logits_{weights}"]
  logits = model(golden_recipes.images(78, 4, 64)).numpy()
  fidelity(
    f"slim's own checkpoint, logits from its {weights} weights",
    f"norm {np.linalg.norm(expected):.6g}",
    f"norm {np.linalg.norm(logits):.6g}",
    np.abs(logits - expected).max(),
    "1e-4",
  )
  assert_golden_logits(model, weights)
  assert (read.path, read.global_step, read.weights) == (PREFIX, 1234, weights)
  assert len(read.restored) == len(model.variables) == 262
  assert sorted(read.restored + read.ignored) == sorted(golden_variables())
  assert all(name.endswith(EMA) == (weights == "ema") for name in read.restored)


def test_ema_weights_are_the_default():
  model = network()
  load_slim_checkpoint(model, PREFIX)
  assert_golden_logits(model, "ema")


@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_variable_is_the_one_of_its_name(weights):
  model = network()
  load_slim_checkpoint(model, PREFIX, weights=weights)
  suffix = EMA if weights == "ema" else ""
  for variable in model.backbone.variables:
    name = golden_recipes.slim_name(variable.name)
    np.testing.assert_array_equal(variable, golden_variables()[name + suffix], name)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_name_that_slim_writes_is_understood(tmp_path, weights):
  text = (golden_recipes.GOLDEN / "checkpoint_all_names.json").read_text()
  shapes = json.loads(text)["variables"]
  assert len(shapes) == 841
  variables = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
  variables["global_step"] = np.int64(7)
  path = write(tmp_path / "model.ckpt", variables)
  read = load_slim_checkpoint(network(), path, weights=weights)
  assert (len(read.restored), len(read.ignored), read.global_step) == (262, 579, 7)
  assert {*read.restored, *read.ignored} == set(shapes)


@pytest.mark.parametrize("slot", ["Momentum", "Adam_1", "Adagrad", "RMSProp_2"])
def test_slots_of_other_optimizers_are_ignored(tmp_path, slot):
  extra = {f"MobilenetV2/Conv/weights/{slot}": np.zeros(3), "beta1_power": np.ones([])}
  path = write(tmp_path / "model.ckpt", {**golden_variables(), **extra})
  assert set(extra) < set(load_slim_checkpoint(network(), path).ignored)


@pytest.mark.parametrize(
  ("name", "weights"),
  [("0.35_plain", "raw"), ("0.35_finegrain", "ema"), ("1.0", "ema"), ("1.4", "raw")],
)
def test_golden_logits_of_other_widths(tmp_path, name, weights):
  arrays, meta = golden(f"logits_{name}_96.npz")
  suffix, other = (EMA, "") if weights == "ema" else ("", EMA)
  variables = {}
  for variable, dimensions in zip(
    arrays["variable_names"], arrays["variable_shapes"], strict=True
  ):
    shape = tuple(map(int, dimensions.split("x")))
    value = golden_recipes.draw_logits_weights(variable, shape, meta["seed"])
    variables |= {variable + suffix: value, variable + other: np.zeros_like(value)}
  path = write(tmp_path / "model.ckpt", variables)

  inferred = slim.read_architecture(path)
  model = network(
    inferred.width_multiplier,
    inferred.num_classes,
    inferred.finegrain_classification_mode,
  )
  read = load_slim_checkpoint(model, path, weights=weights)

  assert inferred.width_multiplier == meta["depth_multiplier"]
  assert read.global_step is None
  logits = model(golden_recipes.images(77, 4, 96))
  np.testing.assert_allclose(logits, arrays["inference/logits"], rtol=0, atol=1e-4)


# ---- With and without logits ----


def test_backbone_alone():
  backbone = MobileNetV2(0.35)
  read = load_slim_checkpoint(backbone, PREFIX, weights="raw")
  assert len(read.restored) == 260
  assert {f"{HEAD}/weights", f"{HEAD}/biases"} < set(read.ignored)
  model = network()
  load_slim_checkpoint(model, PREFIX, weights="raw")
  for mine, expected in zip(backbone.variables, model.backbone.variables, strict=True):
    np.testing.assert_array_equal(mine, expected)


def test_logits_left_out_stay_as_they_are():
  model = network(num_classes=5)
  before = [value.copy() for value in model.layers[-1].get_weights()]
  assert len(load_slim_checkpoint(model, PREFIX, logits=False).restored) == 260
  for now, then in zip(model.layers[-1].get_weights(), before, strict=True):
    np.testing.assert_array_equal(now, then)
  kernel = golden_variables()[f"MobilenetV2/Conv/weights{EMA}"]
  np.testing.assert_array_equal(model.backbone.get_layer("Conv").kernel, kernel)


def without_logits():
  return {k: v for k, v in golden_variables().items() if not k.startswith(HEAD)}


def test_checkpoint_without_logits(tmp_path):
  path = write(tmp_path / "model.ckpt", without_logits())
  assert slim.read_architecture(path).num_classes is None
  assert len(load_slim_checkpoint(MobileNetV2(0.35), path).restored) == 260
  assert len(load_slim_checkpoint(network(), path, logits=False).restored) == 260
  with pytest.raises(UserError, match=r"2 missing.*Logits.*logits=False"):
    load_slim_checkpoint(network(), path)


def test_model_with_another_head():
  image = keras.Input([64, 64, 3])
  features = keras.layers.GlobalMaxPooling2D()(MobileNetV2(0.35)(image)["6"])
  heads = [keras.layers.Dense(11, name=name)(features) for name in ("age", "kind")]
  model = keras.Model(image, heads)
  with pytest.raises(UserError, match=r"age, kind.*one Dense.*logits=False"):
    load_slim_checkpoint(model, PREFIX)
  assert len(load_slim_checkpoint(model, PREFIX, logits=False).restored) == 260


def test_model_of_another_network():
  image = keras.Input([8])
  model = keras.Model(image, keras.layers.Dense(2)(image))
  with pytest.raises(UserError, match=r"0 networks of the class .*MobileNetV2"):
    load_slim_checkpoint(model, PREFIX)


# ---- What does not fit: named, and nothing is set ----

FIRST = "MobilenetV2/Conv/weights"
SOME = "MobilenetV2/expanded_conv_7/depthwise/BatchNorm/moving_mean"


def changed(removed=(), **added):
  kept = {k: v for k, v in golden_variables().items() if k not in removed}
  return {**kept, **{name: np.zeros(shape) for name, shape in added.items()}}


def only_raw():
  return {k: v for k, v in golden_variables().items() if not k.endswith(EMA)}


UNFIT = {
  "missing": (changed([FIRST, SOME]), "raw", ["2 missing", FIRST, SOME]),
  "missing shadow variable": (
    changed([SOME + EMA]),
    "ema",
    ["1 missing", SOME + EMA, "raw"],
  ),
  "no EMA": (only_raw(), "ema", ["no EMA weights", "--weights=raw"]),
  "unknown": (
    changed(**{"MobilenetV2/Conv/biases": [16], "loss_scale": [2]}),
    "ema",
    ["2 unknown: MobilenetV2/Conv/biases, loss_scale"],
  ),
  "renamed": (
    changed([FIRST], **{"MobilenetV2/Conv/kernel": [3, 3, 3, 16]}),
    "raw",
    [f"1 missing: {FIRST}", "1 unknown: MobilenetV2/Conv/kernel"],
  ),
  "transposed": (
    changed(**{FIRST: [16, 3, 3, 3]}),
    "raw",
    [f"1 of another shape: {FIRST} is [16, 3, 3, 3], the model's [3, 3, 3, 16]"],
  ),
  "many": (
    {"MobilenetV2/Conv/weights": np.zeros([3, 3, 3, 16])},
    "raw",
    ["261 missing", "and 251 more"],
  ),
  "another network": (
    {"MobilenetV1/Conv2d_0/weights": np.zeros(2)},
    "raw",
    ["no variable MobilenetV2/", "MobilenetV1"],
  ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_checkpoint_that_does_not_fit(tmp_path, case):
  variables, weights, expected = UNFIT[case]
  path = write(tmp_path / "model.ckpt", variables)
  model = network()
  before = [value.copy() for value in model.get_weights()]
  with pytest.raises(UserError) as error:
    load_slim_checkpoint(model, path, weights=weights)
  assert path in str(error.value)
  for text in expected:
    assert text in str(error.value)
  for now, then in zip(model.get_weights(), before, strict=True):
    np.testing.assert_array_equal(now, then)


def test_model_of_another_width():
  with pytest.raises(UserError) as error:
    load_slim_checkpoint(MobileNetV2(0.5), PREFIX)
  text = str(error.value)
  name = f"MobilenetV2/expanded_conv_1/project/weights{EMA}"
  assert f"{name} is [1, 1, 48, 8], the model's [1, 1, 48, 16]" in text
  assert "width_multiplier=0.35, finegrain_classification_mode=True" in text


def test_model_of_the_other_mode():
  with pytest.raises(UserError, match="finegrain_classification_mode=True"):
    load_slim_checkpoint(MobileNetV2(0.35, finegrain_classification_mode=False), PREFIX)


def test_model_with_other_classes():
  with pytest.raises(UserError) as error:
    load_slim_checkpoint(network(num_classes=5), PREFIX)
  text = str(error.value)
  assert f"{HEAD}/biases{EMA} is [11], the model's [5]" in text
  assert "[1, 1, 1280, 11], the model's [1, 1, 1280, 5]" in text
  assert "num_classes=11" in text
  assert "logits=False" in text


def test_weights_that_are_no_choice():
  with pytest.raises(UserError, match="Did you mean 'ema'"):
    load_slim_checkpoint(network(), PREFIX, weights="emma")


def test_checkpoint_of_tensorflow_2(tmp_path):
  path = tf.train.Checkpoint(step=tf.Variable(1)).write(str(tmp_path / "ckpt"))
  for read in (slim.read_architecture, lambda p: load_slim_checkpoint(network(), p)):
    with pytest.raises(UserError, match=r"tf\.train\.Checkpoint.*init_checkpoint"):
      read(path)


def truncate(length):
  return lambda file: file.write_bytes(file.read_bytes()[:length])


def invert(start, stop):
  def change(file):
    content = np.frombuffer(file.read_bytes(), np.uint8).copy()
    content[start:stop] ^= 255
    file.write_bytes(content.tobytes())

  return change


@pytest.mark.parametrize(
  ("suffix", "corrupt"),
  [
    (".index", truncate(0)),
    (".index", truncate(1000)),
    (".index", invert(12_000, 12_100)),
    (".data-00000-of-00001", truncate(1_000_000)),
    (".data-00000-of-00001", invert(2_000_000, 2_000_100)),
    (".data-00000-of-00001", lambda file: file.unlink()),
  ],
)
def test_corrupt_files(tmp_path, suffix, corrupt):
  folder = tmp_path / "checkpoint"
  shutil.copytree(FOLDER, folder)
  prefix = folder / "model.ckpt-1234"
  corrupt(folder / (prefix.name + suffix))
  with pytest.raises(UserError, match=f"{re.escape(str(prefix))}.*cannot be read"):
    load_slim_checkpoint(network(), str(prefix))


def test_no_checkpoint(tmp_path):
  with pytest.raises(UserError, match="no checkpoint"):
    load_slim_checkpoint(network(), str(tmp_path))
