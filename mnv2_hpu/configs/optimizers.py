"""Configuration of the optimizer, its learning rate and its moving average.

Registers with Model Garden, for every experiment:

* the optimizer `rmsprop_tf1` (`optimizer_config.optimizer.rmsprop_tf1`);
* the learning rate `exponential_slim` (`optimizer_config.learning_rate`).
"""

import dataclasses
import math
from collections.abc import Callable

from official.modeling.hyperparams import base_config
from official.modeling.optimization import optimizer_factory
from official.modeling.optimization.configs import (
  learning_rate_config,
  optimizer_config,
)
from official.modeling.optimization.configs import optimization_config as opt_cfg

from mnv2_hpu.configs import oneof, schedules
from mnv2_hpu.configs.classification_recipe import Recipe
from mnv2_hpu.errors import UserError, did_you_mean
from mnv2_hpu.optimization.learning_rate import SlimExponentialDecay
from mnv2_hpu.optimization.rmsprop_tf1 import RMSpropTF1

END_LEARNING_RATE = 1e-4  # of the polynomial decay, for one replica; slim's


@dataclasses.dataclass
class RMSpropTF1Config(optimizer_config.BaseOptimizerConfig):
  """The arguments of `optimization.rmsprop_tf1.RMSpropTF1`."""

  name: str = "RMSpropTF1"
  rho: float = 0.9  # decay of the mean square, which starts at one
  momentum: float = 0.9
  epsilon: float = 1.0  # inside the root


@dataclasses.dataclass
class SlimExponentialLrConfig(base_config.Config):
  """The arguments of `optimization.learning_rate.SlimExponentialDecay`."""

  name: str = "SlimExponentialDecay"
  initial_learning_rate: float | None = None  # of one replica
  decay_steps: int | None = None
  decay_rate: float | None = None
  staircase: bool = True
  warmup_steps: float = 0.0  # of the line from zero; slim's is not a whole number
  scale: float = 1.0  # the number of replicas, or 1


def _register() -> None:
  """Adds the optimizer and the learning rate to Model Garden's tables, once."""
  if "rmsprop_tf1" not in optimizer_factory.LEGACY_OPTIMIZERS_CLS:
    optimizer_factory.register_optimizer_cls("rmsprop_tf1", RMSpropTF1)
  oneof.add_choice(opt_cfg.OptimizerConfig, "rmsprop_tf1", RMSpropTF1Config)
  optimizer_factory.LR_CLS["exponential_slim"] = SlimExponentialDecay
  oneof.add_choice(opt_cfg.LrConfig, "exponential_slim", SlimExponentialLrConfig)


_register()


@dataclasses.dataclass(frozen=True)
class _Rate:
  """A learning rate in steps, before it is written as one of the choices."""

  initial: float  # of one replica
  scaled: float  # of all
  scale: int  # what the rule multiplies it by
  decay_rate: float
  decay_steps: int
  staircase: bool
  warmup_steps: float
  train_steps: int

  def constant(self) -> base_config.Config:
    return learning_rate_config.ConstantLrConfig(learning_rate=self.scaled)

  def exponential(self) -> base_config.Config:
    return learning_rate_config.ExponentialLrConfig(
      initial_learning_rate=self.scaled,
      decay_steps=self.decay_steps,
      decay_rate=self.decay_rate,
      staircase=self.staircase,
    )

  def exponential_slim(self) -> base_config.Config:
    return SlimExponentialLrConfig(
      initial_learning_rate=self.initial,
      decay_steps=self.decay_steps,
      decay_rate=self.decay_rate,
      staircase=self.staircase,
      warmup_steps=self.warmup_steps,
      scale=self.scale,
    )

  def cosine(self) -> base_config.Config:
    return learning_rate_config.CosineLrConfig(
      initial_learning_rate=self.scaled, decay_steps=self.train_steps
    )

  def polynomial(self) -> base_config.Config:
    return learning_rate_config.PolynomialLrConfig(
      initial_learning_rate=self.scaled,
      decay_steps=self.train_steps,
      end_learning_rate=END_LEARNING_RATE * self.scale,
    )


# "exponential" is Model Garden's: after a warm-up, which ends at the decayed rate.
# "exponential_slim" has slim's warm-up; without one both are equal. "cosine" (to 0) and
# "polynomial" (linearly to 1e-4 times the scale) end with the training.
LEARNING_RATE_SCHEDULES: dict[str, Callable[[_Rate], base_config.Config]] = {
  "exponential": _Rate.exponential,
  "exponential_slim": _Rate.exponential_slim,
  "cosine": _Rate.cosine,
  "polynomial": _Rate.polynomial,
  "constant": _Rate.constant,
}


# Which of RMSProp's three numbers an optimizer is given; others keep their defaults.
OPTIMIZER_ARGUMENTS = {
  "rmsprop_tf1": ("rho", "momentum", "epsilon"),
  "rmsprop": ("rho", "momentum", "epsilon"),
  "sgd": ("momentum",),
}


def _optimizer(recipe: Recipe) -> opt_cfg.OptimizerConfig:
  name = recipe.optimizer
  config = opt_cfg.OptimizerConfig(type=name)
  known = {field.name for field in dataclasses.fields(config)} - {"type"}
  if name not in known:
    raise UserError(f"optimizer: {name!r} is unknown. {did_you_mean(name, known)}")
  config.get().override(
    {key: getattr(recipe, key) for key in OPTIMIZER_ARGUMENTS.get(name, ())}
  )
  return config


def _check_range(name: str, value: float, low: float, high: float, text: str) -> None:
  """Raises UserError unless low < value <= high."""
  if not low < value <= high:
    raise UserError(f"{name} is {value!r}; it must be {text}.")


def _learning_rate(
  recipe: Recipe, schedule: schedules.Schedule, num_replicas: int, warmup_epochs: float
) -> opt_cfg.LrConfig:
  name, rule = recipe.learning_rate_schedule, recipe.learning_rate_scaling
  rate = _Rate(
    initial=recipe.learning_rate,
    scaled=schedules.scale_learning_rate(recipe.learning_rate, rule, num_replicas),
    scale=schedules.learning_rate_scale(rule, num_replicas),
    decay_rate=recipe.decay_rate,
    decay_steps=schedule.steps(recipe.decay_epochs),
    staircase=recipe.staircase,
    warmup_steps=schedule.fractional_steps(warmup_epochs),
    train_steps=schedule.steps(recipe.train_epochs),
  )
  return opt_cfg.LrConfig(type=name, **{name: LEARNING_RATE_SCHEDULES[name](rate)})


def _check(recipe: Recipe) -> None:
  name = recipe.learning_rate_schedule
  if name not in LEARNING_RATE_SCHEDULES:
    raise UserError(
      f"learning_rate_schedule: {name!r} is unknown. "
      + did_you_mean(name, LEARNING_RATE_SCHEDULES)
    )
  _check_range("decay_rate", recipe.decay_rate, 0, 1, "above 0 and at most 1")
  _check_range("decay_epochs", recipe.decay_epochs, 0, math.inf, "positive")
  _check_range("train_epochs", recipe.train_epochs, 0, math.inf, "positive")
  if not 0 <= recipe.average_decay < 1:
    raise UserError(
      f"average_decay is {recipe.average_decay!r}; it must be at least 0 and below 1."
    )


def optimization_config(
  recipe: Recipe, schedule: schedules.Schedule, num_replicas: int = 1
) -> opt_cfg.OptimizationConfig:
  """Returns `trainer.optimizer_config` of a recipe, whose durations are in epochs.

  Args:
    recipe: its optimizer, learning rate, averages and durations.
    schedule: turns epochs into steps.
    num_replicas: global batch divided by the batch that the learning rate is for.

  Raises:
    UserError: if a name is unknown or a number out of its range.
  """
  _check(recipe)
  warmup_epochs = recipe.warmup_epochs
  if warmup_epochs is None:
    warmup_epochs = schedules.default_warmup_epochs(
      recipe.learning_rate_scaling, num_replicas
    )
  config = opt_cfg.OptimizationConfig(
    optimizer=_optimizer(recipe),
    learning_rate=_learning_rate(recipe, schedule, num_replicas, warmup_epochs),
  )
  if warmup_epochs and recipe.learning_rate_schedule != "exponential_slim":
    config.warmup = opt_cfg.WarmupConfig(
      type="linear",
      linear=learning_rate_config.LinearWarmupConfig(
        warmup_steps=schedule.steps(warmup_epochs)
      ),
    )
  if recipe.average_decay:
    config.ema = optimizer_config.EMAConfig(
      average_decay=recipe.average_decay,
      trainable_weights_only=not recipe.average_batch_statistics,
    )
  return config
