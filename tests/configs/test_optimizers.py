import json
import pathlib

import pytest
import tensorflow as tf
from official.core import exp_factory
from official.modeling import optimization
from official.modeling.hyperparams import params_dict
from official.vision import registry_imports  # noqa: F401

from mnv2_hpu.compat import keras
from mnv2_hpu.configs import optimizers, schedules
from mnv2_hpu.configs.recipe import Recipe
from mnv2_hpu.errors import UserError
from mnv2_hpu.optimization.learning_rate import SlimExponentialDecay
from mnv2_hpu.optimization.rmsprop_tf1 import RMSpropTF1
from mnv2_hpu.tasks import image_classification as image_classification_task

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "lr.json"
SLIM_CASES = json.loads(GOLDEN.read_text())["cases"]
IMAGENET = schedules.Schedule(1_281_167, 96)
IMAGENET_8 = schedules.Schedule(1_281_167, 96 * 8)
DIGITS = schedules.Schedule(1_437, 32)


def build(config):
  factory = optimization.OptimizerFactory(config)
  return factory.build_optimizer(factory.build_learning_rate())


def optimization_config(schedule, num_replicas=1, **fields):
  recipe = Recipe(
    **{"data_dir": "unused", "learning_rate_schedule": "exponential", **fields}
  )
  return optimizers.optimization_config(recipe, schedule, num_replicas)


def rate_at(config, step):
  rate = optimization.OptimizerFactory(config).build_learning_rate()
  return float(rate(tf.constant(step, tf.int64)) if callable(rate) else rate)


def test_a_stock_experiment_takes_the_optimizer_by_override():
  config = exp_factory.get_exp_config("mobilenet_imagenet")
  overrides = {
    "trainer": {
      "optimizer_config": {
        "optimizer": {"type": "rmsprop_tf1", "rmsprop_tf1": {"momentum": 0.5}}
      }
    }
  }
  config = params_dict.override_params_dict(config, overrides, is_strict=True)
  config.validate()
  optimizer = build(config.trainer.optimizer_config)
  assert isinstance(optimizer, RMSpropTF1)
  values = optimizer.get_config()
  assert values["momentum"] == 0.5
  assert values["rho"] == pytest.approx(0.9)
  assert values["epsilon"] == 1.0


def test_a_misspelt_field_of_the_optimizer_is_refused():
  config = exp_factory.get_exp_config("mobilenet_imagenet")
  overrides = {
    "trainer": {"optimizer_config": {"optimizer": {"rmsprop_tf1": {"epsilom": 1.0}}}}
  }
  with pytest.raises(KeyError, match="epsilom"):
    params_dict.override_params_dict(config, overrides, is_strict=True)


def test_the_recipe_on_one_replica():
  config = optimization_config(IMAGENET)
  assert config.optimizer.get().as_dict() == {
    "name": "RMSpropTF1",
    "rho": 0.9,
    "momentum": 0.9,
    "epsilon": 1.0,
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
  }
  assert config.learning_rate.get().as_dict() == {
    "name": "ExponentialDecay",
    "initial_learning_rate": 0.045,
    "decay_steps": 33_363,
    "decay_rate": 0.98,
    "staircase": True,
    "offset": 0,
  }
  assert config.warmup.type is None
  assert config.ema.average_decay == 0.9999
  assert config.ema.trainable_weights_only is False


def test_eight_replicas_warm_up_to_eight_times_the_rate():
  config = optimization_config(
    IMAGENET_8, num_replicas=8, decay_epochs=10, learning_rate_scaling="linear"
  )
  assert config.warmup.linear.warmup_steps == 8_340  # 5 epochs
  assert rate_at(config, 0) == 0
  assert rate_at(config, 4_170) == pytest.approx(0.18)
  assert rate_at(config, 8_340) == pytest.approx(0.36)


def test_a_rule_warms_up_for_half_of_a_short_training():
  config = optimization_config(DIGITS, num_replicas=2, train_epochs=2)
  assert config.warmup.linear.warmup_steps == DIGITS.steps(1)


def test_slims_rule_has_no_warm_up():
  config = optimization_config(IMAGENET_8, num_replicas=8, learning_rate_scaling="slim")
  assert config.warmup.type is None
  assert rate_at(config, 0) == pytest.approx(0.36)
  assert rate_at(config, 4_170) == pytest.approx(0.3528)


def test_slims_schedule_brings_its_own_warm_up():
  config = optimization_config(
    IMAGENET_8,
    num_replicas=8,
    learning_rate_scaling="slim",
    learning_rate_schedule="exponential_slim",
    warmup_epochs=5,
  )
  assert config.warmup.type is None
  assert rate_at(config, 5_000) == pytest.approx(0.21580326557159424, abs=0)
  assert isinstance(build(config).learning_rate, SlimExponentialDecay)


@pytest.mark.parametrize(
  ("schedule", "first", "half", "last"),
  [
    ("constant", 0.1, 0.1, 0.1),
    ("cosine", 0.1, 0.05, 0.0),
    ("polynomial", 0.1, 0.05005, 1e-4),
    ("exponential", 0.1, 0.1 * 0.5**2, 0.1 * 0.5**4),
    ("exponential_slim", 0.1, 0.1 * 0.5**2, 0.1 * 0.5**4),
  ],
)
def test_schedules_end_with_the_training(schedule, first, half, last):
  config = optimization_config(
    schedules.Schedule(100, 10),
    learning_rate=0.1,
    learning_rate_schedule=schedule,
    decay_rate=0.5,
    decay_epochs=1,
    train_epochs=4,
  )
  rates = [rate_at(config, step) for step in (0, 20, 40)]
  assert rates == pytest.approx([first, half, last], rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(
  ("slims", "ours"), [("polynomial", "polynomial"), ("fixed", "constant")]
)
def test_slims_other_decays(slims, ours):
  case = next(c for c in SLIM_CASES if c["name"] == slims)
  config = optimization_config(IMAGENET, learning_rate_schedule=ours, train_epochs=2.5)
  rates = [rate_at(config, step) for step in case["steps"]]
  assert rates == pytest.approx(case["lr"], rel=1e-6)


@pytest.mark.parametrize(("limit", "step"), [(0.0, 10.0), (20.0, 10.0), (2.5, 2.5)])
def test_gradients_are_clipped_by_their_norm_together(limit, step):
  config = optimization_config(
    DIGITS,
    optimizer="sgd",
    momentum=0.0,
    learning_rate=1.0,
    learning_rate_schedule="constant",
    gradient_clip_norm=limit,
    ema_decay=0.0,
  )
  task = image_classification_task.ImageClassificationTask
  optimizer = task.create_optimizer(config)
  weights = [tf.Variable([0.0]), tf.Variable([0.0])]
  gradients = [tf.constant([6.0]), tf.constant([8.0])]  # their norm is 10
  optimizer.apply_gradients(zip(gradients, weights, strict=True))
  moved = [float(weight[0]) for weight in weights]
  assert moved == pytest.approx([-0.6 * step, -0.8 * step])


def test_epsilon_is_for_rmsprop_only():
  adam = optimization_config(DIGITS, optimizer="adam").optimizer.get()
  assert adam.epsilon == 1e-7
  sgd = optimization_config(DIGITS, optimizer="sgd", momentum=0.8)
  assert sgd.optimizer.get().momentum == 0.8


def test_no_average_by_zero_and_only_weights_by_request():
  assert optimization_config(DIGITS, ema_decay=0.0).ema is None
  ema = optimization_config(DIGITS, ema_batch_statistics=False).ema
  assert ema.trainable_weights_only


@pytest.mark.parametrize(
  ("argument", "value", "message"),
  [
    ("optimizer", "rmsprop_tf", "Did you mean 'rmsprop_tf1'"),
    ("optimizer", "as_dict", "unknown"),
    ("learning_rate_schedule", "exponental", "Did you mean 'exponential'"),
    ("learning_rate_scaling", "liner", "Did you mean 'linear'"),
    ("learning_rate", -0.1, "learning_rate is -0.1; it must be positive"),
    ("decay_rate", 1.5, "decay_rate is 1.5"),
    ("decay_epochs", 0, "decay_epochs is 0"),
    ("train_epochs", 0, "train_epochs is 0"),
    ("warmup_epochs", -1, "-1 epochs"),
    ("gradient_clip_norm", -1.0, "at least 0"),
    ("ema_decay", 1.0, "ema_decay is 1.0"),
    ("gradient_clip_norm", -1.0, "gradient_clip_norm is -1.0"),
    ("num_replicas", 0, "num_replicas is 0"),
  ],
)
def test_mistakes_are_named(argument, value, message):
  with pytest.raises(UserError, match=message):
    optimization_config(DIGITS, **{argument: value})


def test_every_optimizer_and_schedule_builds():
  for name in optimizers.LEARNING_RATE_SCHEDULES:
    config = optimization_config(DIGITS, learning_rate_schedule=name, warmup_epochs=1)
    assert isinstance(build(config), keras.optimizers.legacy.Optimizer)
