"""Twelve training steps from the same start as slim's own, number by number.

The golden file holds what slim's training computes (TensorFlow's graph mode, one CPU)
and how far each variable moves when the start is disturbed by 1e-7: the noise. All that
is compared here may differ by three times that noise and a few roundings of float32.
"""

import types

import golden_recipes
import numpy as np
import pytest
import tensorflow as tf
from official.vision.configs import backbones as upstream_backbones
from official.vision.configs import image_classification as upstream

import mnv2_hpu.modeling.mobilenet_v2  # noqa: F401
from mnv2_hpu.configs import backbones, optimizers, schedules
from mnv2_hpu.configs import image_classification as exp_cfg
from mnv2_hpu.configs.recipe import Recipe
from mnv2_hpu.tasks.image_classification import ImageClassificationTask

pytestmark = pytest.mark.slow

SIZES = (32, 64)  # size of the images
SNAPSHOTS = (1, 3, 6, 12)  # numbers of steps done
HEAD = {"kernel": "weights", "bias": "biases"}


def slim_name(variable):
  layer, leaf = variable.name.removesuffix(":0").rsplit("/", 1)
  if layer.startswith("dense"):
    return f"MobilenetV2/Logits/Conv2d_1c_1x1/{HEAD[leaf]}"
  return golden_recipes.slim_name(variable.name)


def slim_shape(variable):
  """Slim's logits are a 1x1 convolution; the values lie in the same order."""
  is_logits = variable.name.startswith("dense") and len(variable.shape) == 2
  return (1, 1, *variable.shape) if is_logits else tuple(variable.shape)


def build(meta):
  """The experiment's own task, model and optimizer, without dropout."""
  task = ImageClassificationTask(
    exp_cfg.ImageClassificationTask(
      model=exp_cfg.ImageClassificationModel(
        num_classes=meta["num_classes"],
        input_size=[meta["size"], meta["size"], 3],
        dropout_rate=0.0,
        backbone=upstream_backbones.Backbone(
          type="mobilenet_v2",
          mobilenet_v2=backbones.MobileNetV2(width_multiplier=meta["depth_multiplier"]),
        ),
      ),
      losses=upstream.Losses(
        l2_weight_decay=meta["weight_decay"], label_smoothing=meta["label_smoothing"]
      ),
    )
  )
  model = task.build_model()
  two_steps_per_epoch = schedules.Schedule(2 * meta["batch"], meta["batch"])
  optimizer = task.create_optimizer(
    optimizers.optimization_config(
      Recipe(data_dir="unused", decay_epochs=2.5), two_steps_per_epoch
    )
  )
  optimizer.shadow_copy(model)
  return task, model, optimizer


@pytest.fixture(scope="module", params=SIZES)
def run(request):
  """Trains twelve steps; keeps losses, and the variables at each snapshot."""
  golden, meta = golden_recipes.load(f"train_035_{request.param}.npz")
  task, model, optimizer = build(meta)
  variables = {slim_name(v): v for v in model.variables}
  for name, v in variables.items():
    drawn = golden_recipes.draw_train_weights(name, slim_shape(v), meta["seed"])
    v.assign(drawn.reshape(v.shape))
  optimizer.reset_shadow_variables()
  result = types.SimpleNamespace(
    golden=golden,
    size=request.param,
    names=golden["model_names"].tolist(),
    start={n: v.numpy() for n, v in variables.items()},
  )
  result.total, result.regularisation, result.rates = [], [], []
  result.snapshots = {}

  @tf.function
  def step(images, labels):
    return task.train_step((images, labels), model, optimizer)["loss"]

  batch = [meta[key] for key in ("batch", "size", "num_classes")]
  for index in range(meta["steps"]):
    images, labels = golden_recipes.train_batch(meta["seed"], index, *batch)
    result.rates.append(float(optimizer.learning_rate(optimizer.iterations)))
    result.regularisation.append(float(tf.add_n(model.losses)))
    loss = step(tf.constant(images), tf.constant(labels, tf.int32))
    result.total.append(float(loss))
    if index + 1 in SNAPSHOTS:
      result.snapshots[index + 1] = {n: v.numpy() for n, v in variables.items()}

  def slots(owner, slot, names):
    return {name: owner.get_slot(variables[name], slot).numpy() for name in names}

  trained = {slim_name(v) for v in model.trainable_variables}
  base = optimizer.base_optimizer
  result.rms = slots(base, "rms", trained)
  result.momentum = slots(base, "momentum", trained)
  result.averages = slots(optimizer, "average", variables)
  return result


ROUNDINGS = 3 * np.finfo(np.float32).eps  # relative error of a norm
# What is left of the ones that the mean squares start as; the rest is gradients.
RMS_WITHOUT_GRADIENTS = 0.9**12


def noise(run, key):
  """The golden's noise by the names of the variables."""
  return dict(zip(run.names, run.golden[key], strict=True))


def allowed(values, noise_of_each):
  """How far each variable may be off, as an l2 norm."""
  return {
    name: 3 * noise_of_each[name] + ROUNDINGS * np.linalg.norm(value)
    for name, value in values.items()
  }


def allowed_slots(run, slot):
  """The same of slots, for which the golden states no noise of its own."""
  if slot == "momentum":  # the last change: as noisy as the weights before and after
    before, after = (noise(run, f"noise_l2_after_{steps}") for steps in (6, 12))
    return allowed(run.momentum, {n: before[n] + after[n] for n in run.momentum})
  of_gradients = {
    n: 0.1 * np.linalg.norm(v - RMS_WITHOUT_GRADIENTS) for n, v in run.rms.items()
  }
  return allowed(run.rms, of_gradients)


def assert_within(differences, tolerances):
  """Names all that differ by more; returns the largest share of the allowed."""
  shares = {
    name: np.max(difference) / tolerances[name]
    for name, difference in differences.items()
    if not name.endswith("project/BatchNorm/beta")  # a gradient that is rounding noise
  }
  assert len(shares) >= 10
  wrong = [f"{name}: {share:.3g} times" for name, share in shares.items() if share > 1]
  assert not wrong, "\n".join(wrong)
  return max(shares.values())


def checksum_differences(values, names, rows):
  """Of norm, first and last value: none is further off than the variable is."""
  return {
    name: np.abs(golden_recipes.checksum(values[name]) - row)[1:]
    for name, row in zip(names, rows, strict=True)
  }


def record(fidelity, run, part, share):
  fidelity(
    f"12 training steps at {run.size} px: {part}",
    f"norms of {len(run.names)} variables",
    "the furthest off",
    f"{share:.2g} of the allowed",
    "3 x the golden's noise",
  )


def test_the_start_is_slims(run):
  rows = run.golden["ck/initial"]
  assert set(run.start) == set(run.names)
  differences = checksum_differences(run.start, run.names, rows)
  assert_within(differences, dict(zip(run.names, 1e-9 * rows[:, 1], strict=True)))


@pytest.mark.fidelity
def test_learning_rates_have_the_bits_of_slims(run):
  np.testing.assert_array_equal(
    np.float32(run.rates), np.float32(run.golden["learning_rate"])
  )


@pytest.mark.fidelity
def test_losses(run, fidelity):
  cross_entropy = np.subtract(run.total, run.regularisation)
  for part, ours, original in (
    ("total loss", run.total, run.golden["total_loss"]),
    ("cross entropy", cross_entropy, run.golden["cross_entropy"]),
    ("regularisation", run.regularisation, run.golden["regularisation"]),
  ):
    fidelity(
      f"12 training steps at {run.size} px: {part}, relative",
      f"last {original[-1]:.7g}",
      f"last {ours[-1]:.7g}",
      np.max(np.abs(ours - original) / original),
      "1e-5",
    )
    np.testing.assert_allclose(ours, original, rtol=1e-5, err_msg=part)


@pytest.mark.parametrize("steps", SNAPSHOTS)
@pytest.mark.fidelity
def test_weights_and_batch_statistics(run, steps, fidelity):
  values = run.snapshots[steps]
  tolerances = allowed(values, noise(run, f"noise_l2_after_{steps}"))
  rows = run.golden[f"ck/values_after_{steps}"]
  share = assert_within(checksum_differences(values, run.names, rows), tolerances)
  changes = noise(run, f"delta_l2_after_{steps}")
  moved = {
    name: abs(np.linalg.norm(np.float64(value) - run.start[name]) - changes[name])
    for name, value in values.items()
  }
  share = max(share, assert_within(moved, tolerances))
  record(fidelity, run, f"weights and statistics after {steps} steps", share)


@pytest.mark.parametrize("slot", ["rms", "momentum"])
@pytest.mark.fidelity
def test_slots(run, slot):
  names = run.golden["trainable_names"].tolist()
  differences = checksum_differences(
    getattr(run, slot), names, run.golden[f"ck/{slot}"]
  )
  assert_within(differences, allowed_slots(run, slot))


@pytest.mark.fidelity
def test_averages_of_the_values_after_each_step(run, fidelity):
  tolerances = allowed(run.averages, noise(run, "ema_noise_l2_after_12"))
  rows = run.golden["ck/ema_if_after_step"]
  differences = checksum_differences(run.averages, run.names, rows)
  share = assert_within(differences, tolerances)
  record(fidelity, run, "averages (of the values after each step)", share)


@pytest.mark.parametrize("what", ["final", "rms", "momentum"])
def test_whole_variables(run, what):
  if what == "final":
    values = run.snapshots[12]
    tolerances = allowed(values, noise(run, "noise_l2_after_12"))
  else:
    values, tolerances = getattr(run, what), allowed_slots(run, what)
  names = [key.partition("/")[2] for key in run.golden if key.startswith(f"{what}/")]
  differences = {
    name: np.linalg.norm(
      values[name]
      - np.float64(run.golden[f"{what}/{name}"]).reshape(values[name].shape)
    )
    for name in names
  }
  assert_within(differences, tolerances)
