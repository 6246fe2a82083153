"""Durations in epochs turned into steps, and learning rates scaled: one place for both.

Plain Python without TensorFlow; sources: slim's `train_image_classifier.py`
(`_configure_learning_rate`) and, for the linear rule, arXiv 1706.02677.
"""

import dataclasses
import math

from mnv2_hpu.errors import UserError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Schedule:
  """How many steps an epoch of one data set takes.

  >>> imagenet = Schedule(num_examples=1_281_167, global_batch_size=96)
  >>> round(imagenet.steps_per_epoch, 3)
  13345.49
  >>> imagenet.steps(2.5)
  33363
  >>> Schedule(1_281_167, 96 * 8).steps(2.5)
  4170
  """

  num_examples: int  # of the training split
  global_batch_size: int  # images per step, over all replicas

  def __post_init__(self) -> None:
    """Checks both numbers.

    Raises:
      UserError: if one of them is not a positive integer.
    """
    for name, value in dataclasses.asdict(self).items():
      if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(
          f"{name} is {value!r}; it must be a positive integer. Check the data "
          "set's dataset.json, or the batch size."
        )

  @property
  def steps_per_epoch(self) -> float:
    """Steps in which every example is seen once, not rounded."""
    return self.num_examples / self.global_batch_size

  def fractional_steps(self, epochs: float) -> float:
    """Returns `epochs` in steps, not rounded.

    Raises:
      UserError: if `epochs` is negative or not finite.
    """
    if not math.isfinite(epochs) or epochs < 0:
      raise UserError(
        f"a duration of {epochs!r} epochs was asked for; it must be 0 or more."
      )
    return self.steps_per_epoch * epochs

  def steps(self, epochs: float) -> int:
    """Returns `epochs` in whole steps: rounded down as slim does, but at least one.

    No epochs are no steps.

    >>> Schedule(num_examples=100, global_batch_size=30).steps(1)
    3
    >>> Schedule(num_examples=10, global_batch_size=30).steps(1)
    1
    >>> Schedule(num_examples=10, global_batch_size=30).steps(0)
    0

    Raises:
      UserError: if `epochs` is negative or not finite.
    """
    exact = self.fractional_steps(epochs)
    return max(1, int(exact)) if exact else 0


@dataclasses.dataclass(frozen=True)
class ScalingRule:
  """What several replicas do to the learning rate of one."""

  multiplies: bool  # the rate by the number of replicas
  warmup_epochs: float  # where there are several replicas and nothing else is asked for


SCALING_RULES = {
  "none": ScalingRule(multiplies=False, warmup_epochs=0.0),
  # slim's under Horovod.
  "slim": ScalingRule(multiplies=True, warmup_epochs=0.0),
  # arXiv 1706.02677, section 2.2: the same with a gradual warm-up of 5 epochs.
  "linear": ScalingRule(multiplies=True, warmup_epochs=5.0),
}


def _scaling_rule(rule: str) -> ScalingRule:
  if rule not in SCALING_RULES:
    raise UserError(
      f"learning_rate_scaling: {rule!r} is unknown. {did_you_mean(rule, SCALING_RULES)}"
    )
  return SCALING_RULES[rule]


def learning_rate_scale(rule: str, num_replicas: int) -> int:
  """Returns what the learning rate of one replica is multiplied by.

  Args:
    rule: a key of `SCALING_RULES`.
    num_replicas: the global batch divided by the batch the rate was chosen for.

  Raises:
    UserError: if the rule is unknown or `num_replicas` is not positive.
  """
  if num_replicas < 1:
    raise UserError(f"num_replicas is {num_replicas!r}; it must be 1 or more.")
  return num_replicas if _scaling_rule(rule).multiplies else 1


def scale_learning_rate(rate: float, rule: str, num_replicas: int) -> float:
  """Returns the learning rate that `num_replicas` replicas use.

  >>> scale_learning_rate(0.045, "linear", 8)
  0.36
  >>> scale_learning_rate(0.045, "none", 8)
  0.045

  Args:
    rate: the learning rate of one replica, positive.
    rule: a key of `SCALING_RULES`.
    num_replicas: the global batch divided by the batch the rate was chosen for.

  Raises:
    UserError: if the rule is unknown or a number is not positive.
  """
  if not math.isfinite(rate) or rate <= 0:
    raise UserError(f"learning_rate is {rate!r}; it must be positive.")
  return rate * learning_rate_scale(rule, num_replicas)


def default_warmup_epochs(rule: str, num_replicas: int) -> float:
  """Returns the warm-up of a rule, in epochs; one replica needs none.

  >>> default_warmup_epochs("linear", 8), default_warmup_epochs("linear", 1)
  (5.0, 0.0)

  Raises:
    UserError: if the rule is unknown.
  """
  warmup_epochs = _scaling_rule(rule).warmup_epochs
  return warmup_epochs if num_replicas > 1 else 0.0
