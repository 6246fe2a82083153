"""Configuration of the optimizer, its learning rate and its moving average (EMA).

Registers with Model Garden, for every experiment:

* the optimizer `rmsprop_tf1` (`optimizer_config.optimizer.rmsprop_tf1`);
* the learning rates `exponential_slim` and `polynomial_slow_start`
  (`optimizer_config.learning_rate`).
"""

import dataclasses
import math
from typing import Any

from official.modeling.hyperparams import base_config
from official.modeling.optimization import optimizer_factory
from official.modeling.optimization.configs import (
  learning_rate_config,
  optimizer_config,
)
from official.modeling.optimization.configs import optimization_config as opt_cfg

from mnv2_hpu.configs import oneof, schedules
from mnv2_hpu.configs.recipe import CompleteRecipe, Recipe
from mnv2_hpu.errors import UserError, did_you_mean
from mnv2_hpu.optimization.learning_rate import (
  SlimExponentialDecay,
  SlowStartPolynomialDecay,
)
from mnv2_hpu.optimization.rmsprop_tf1 import RMSpropTF1

# "exponential" is Model Garden's: after a warm-up, which ends at the decayed rate.
# "exponential_slim" has slim's warm-up; without one both are equal. "cosine" (to 0) and
# "polynomial" (to end_learning_rate) end with the training.
LEARNING_RATE_SCHEDULES = (
  "constant",
  "cosine",
  "exponential",
  "exponential_slim",
  "polynomial",
)

# Which of RMSProp's three numbers an optimizer is given; others keep their defaults.
OPTIMIZER_ARGUMENTS = {
  "rmsprop_tf1": ("rho", "momentum", "epsilon"),
  "rmsprop": ("rho", "momentum", "epsilon"),
  "sgd": ("momentum",),
}


@dataclasses.dataclass
class RMSpropTF1Config(optimizer_config.BaseOptimizerConfig):
  """The arguments of `optimization.rmsprop_tf1.RMSpropTF1`."""

  name: str = "RMSpropTF1"
  rho: float = Recipe.rho
  momentum: float = Recipe.momentum
  epsilon: float = Recipe.epsilon


@dataclasses.dataclass
class SlimExponentialLrConfig(base_config.Config):
  """The arguments of `optimization.learning_rate.SlimExponentialDecay`."""

  name: str = "SlimExponentialDecay"
  initial_learning_rate: float | None = None  # the rate of one replica
  decay_steps: int | None = None
  decay_rate: float | None = None
  staircase: bool = Recipe.staircase
  warmup_steps: float = 0.0  # length of the line from zero; slim's is fractional
  scale: float = 1.0  # the number of replicas, or 1


@dataclasses.dataclass
class SlowStartPolynomialLrConfig(base_config.Config):
  """The arguments of `optimization.learning_rate.SlowStartPolynomialDecay`."""

  name: str = "SlowStartPolynomialDecay"
  initial_learning_rate: float | None = None
  decay_steps: int | None = None
  end_learning_rate: float = Recipe.end_learning_rate
  power: float = Recipe.decay_power
  slow_start_steps: int = 0
  slow_start_learning_rate: float = Recipe.slow_start_learning_rate


def _register() -> None:
  """Adds the optimizer and the learning rates to Model Garden's tables, once."""
  if "rmsprop_tf1" not in optimizer_factory.LEGACY_OPTIMIZERS_CLS:
    optimizer_factory.register_optimizer_cls("rmsprop_tf1", RMSpropTF1)
  oneof.add_choice(opt_cfg.OptimizerConfig, "rmsprop_tf1", RMSpropTF1Config)
  optimizer_factory.LR_CLS["exponential_slim"] = SlimExponentialDecay
  oneof.add_choice(opt_cfg.LrConfig, "exponential_slim", SlimExponentialLrConfig)
  optimizer_factory.LR_CLS["polynomial_slow_start"] = SlowStartPolynomialDecay
  oneof.add_choice(
    opt_cfg.LrConfig, "polynomial_slow_start", SlowStartPolynomialLrConfig
  )


_register()


def optimization_config(
  recipe: CompleteRecipe, schedule: schedules.Schedule, num_replicas: int = 1
) -> opt_cfg.OptimizationConfig:
  """Returns `trainer.optimizer_config` of a recipe, whose durations are in epochs.

  Args:
    recipe: Its optimizer, learning rate, EMA and durations.
    schedule: Turns epochs into steps.
    num_replicas: Global batch divided by the batch that the learning rate is for.

  Raises:
    UserError: If a name is unknown or a number out of its range.
  """
  _check(recipe)
  scale, warmup_epochs = schedules.learning_rate_scaling(
    recipe.learning_rate_scaling, num_replicas
  )
  # A short training would end before a rule's warm-up.
  warmup_epochs = min(warmup_epochs, recipe.train_epochs / 2)
  warmup_epochs = max(warmup_epochs, recipe.min_warmup_fraction * recipe.train_epochs)
  if recipe.warmup_epochs is not None:
    warmup_epochs = recipe.warmup_epochs
  config = opt_cfg.OptimizationConfig(
    optimizer=_optimizer(recipe),
    learning_rate=_learning_rate(recipe, schedule, scale, warmup_epochs),
  )
  if warmup_epochs and recipe.learning_rate_schedule != "exponential_slim":
    config.warmup = opt_cfg.WarmupConfig(
      type="linear",
      linear=learning_rate_config.LinearWarmupConfig(
        warmup_steps=schedule.steps(warmup_epochs)
      ),
    )
  if recipe.ema_decay:
    config.ema = optimizer_config.EMAConfig(
      average_decay=recipe.ema_decay,
      trainable_weights_only=not recipe.ema_batch_statistics,
    )
  return config


def _check(recipe: CompleteRecipe) -> None:
  name = recipe.learning_rate_schedule
  if name not in LEARNING_RATE_SCHEDULES:
    raise UserError(
      f"learning_rate_schedule: {name!r} is unknown. "
      + did_you_mean(name, LEARNING_RATE_SCHEDULES)
    )
  for name in ("learning_rate", "decay_epochs", "train_epochs"):
    value = getattr(recipe, name)
    if not 0 < value < math.inf:
      raise UserError(f"{name} is {value!r}; it must be positive.")
  if not 0 < recipe.decay_rate <= 1:
    raise UserError(
      f"decay_rate is {recipe.decay_rate!r}; it must be above 0 and at most 1."
    )
  if not 0 <= recipe.gradient_clip_norm < math.inf:
    raise UserError(
      f"gradient_clip_norm is {recipe.gradient_clip_norm!r}; it must be at least 0, "
      "which clips nothing."
    )
  for name in ("ema_decay", "min_warmup_fraction"):
    value = getattr(recipe, name)
    if not 0 <= value < 1:
      raise UserError(f"{name} is {value!r}; it must be at least 0 and below 1.")


def _optimizer(recipe: CompleteRecipe) -> opt_cfg.OptimizerConfig:
  name = recipe.optimizer
  config = opt_cfg.OptimizerConfig(type=name)
  known = {field.name for field in dataclasses.fields(config)} - {"type"}
  if name not in known:
    raise UserError(f"optimizer: {name!r} is unknown. {did_you_mean(name, known)}")
  config.get().override(
    {key: getattr(recipe, key) for key in OPTIMIZER_ARGUMENTS.get(name, ())}
  )
  if recipe.gradient_clip_norm:
    config.get().global_clipnorm = recipe.gradient_clip_norm
  return config


def _learning_rate(
  recipe: CompleteRecipe, schedule: schedules.Schedule, scale: int, warmup_epochs: float
) -> opt_cfg.LrConfig:
  """Returns the schedule that the recipe names, in steps and for all replicas."""
  rate = recipe.learning_rate * scale
  to_the_end = {
    "initial_learning_rate": rate,
    "decay_steps": schedule.steps(recipe.train_epochs),
  }
  decay = {
    "initial_learning_rate": rate,
    "decay_steps": schedule.steps(recipe.decay_epochs),
    "decay_rate": recipe.decay_rate,
    "staircase": recipe.staircase,
  }
  polynomial = {
    **to_the_end,
    "power": recipe.decay_power,
    "end_learning_rate": recipe.end_learning_rate * scale,
  }
  arguments: dict[str, dict[str, Any]] = {
    "constant": {"learning_rate": rate},
    "cosine": to_the_end,
    "polynomial": polynomial,
    "polynomial_slow_start": {
      **polynomial,
      "slow_start_steps": schedule.steps(recipe.slow_start_epochs),
      "slow_start_learning_rate": recipe.slow_start_learning_rate,
    },
    "exponential": decay,
    "exponential_slim": {  # scales by itself, in float32, as slim does
      **decay,
      "initial_learning_rate": recipe.learning_rate,
      "warmup_steps": schedule.fractional_steps(warmup_epochs),
      "scale": scale,
    },
  }
  kind = recipe.learning_rate_schedule
  if kind == "polynomial" and recipe.slow_start_epochs:
    kind = "polynomial_slow_start"
  config = opt_cfg.LrConfig(type=kind)
  config.get().override(arguments[kind])
  return config
