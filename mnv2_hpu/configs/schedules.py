"""Durations in epochs turned into steps, and what replicas do to a learning rate.

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

  num_examples: int  # examples of the training split
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
        f"a duration of {epochs!r} epochs was requested; it must be 0 or more."
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


# Whether several replicas multiply the learning rate, and their epochs of warm-up.
SCALING_RULES = {
  "none": (False, 0.0),
  "slim": (True, 0.0),  # slim's under Horovod
  "linear": (True, 5.0),  # arXiv 1706.02677, section 2.2: with a gradual warm-up
}


def learning_rate_scaling(rule: str, num_replicas: int) -> tuple[int, float]:
  """Returns the factor of the learning rate, and the epochs of warm-up.

  Args:
    rule: A key of `SCALING_RULES`.
    num_replicas: The global batch divided by the batch that the rate was chosen for.

  Raises:
    UserError: If the rule is unknown or `num_replicas` is not positive.

  >>> learning_rate_scaling("linear", 8), learning_rate_scaling("linear", 1)
  ((8, 5.0), (1, 0.0))
  >>> learning_rate_scaling("none", 8)
  (1, 0.0)
  """
  if rule not in SCALING_RULES:
    raise UserError(
      f"learning_rate_scaling: {rule!r} is unknown. {did_you_mean(rule, SCALING_RULES)}"
    )
  if num_replicas < 1:
    raise UserError(f"num_replicas is {num_replicas!r}; it must be 1 or more.")
  multiplies, warmup_epochs = SCALING_RULES[rule]
  factor = num_replicas if multiplies else 1
  return factor, warmup_epochs if num_replicas > 1 else 0.0
