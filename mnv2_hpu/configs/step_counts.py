"""Settings that follow from the number of training images and steps.

A field of the recipe that is None is chosen here; one that has a value keeps it. With
few images the defaults of long trainings fail quietly: averages with a long memory
still hold the first steps when the training ends, so evaluation lags far behind.
"""

import dataclasses
import math
from typing import Any

from mnv2_hpu.configs.recipe import Recipe, TrainingRecipe
from mnv2_hpu.configs.schedules import Schedule

MIN_STEPS_PER_EPOCH = 8
MIN_BATCH_SIZE = 16  # images per replica: batch statistics of fewer are too noisy
MIN_TRAIN_EPOCHS = 50
MIN_TRAIN_STEPS = 1500
MAX_EVALUATIONS = 50  # each with a checkpoint: seconds that small trainings notice
NORM_MEMORY = 1 / 100  # memory of moving batch statistics, fraction of the steps
EMA_MEMORY = 1 / 50  # memory of EMA weights, fraction of the steps
# Half-lives after which an average holds less than 1% of what it started from.
HALF_LIVES = 7


def batch_size(num_examples: int, num_replicas: int = 1) -> int:
  """Returns the images per replica: a power of two, but at most the recipe's default.

  Args:
    num_examples: Number of training images.
    num_replicas: Number of replicas that share a step.

  >>> [batch_size(n) for n in (20, 160, 300, 1000, 3000)]
  [16, 16, 32, 96, 96]
  >>> batch_size(1000, num_replicas=8)
  16
  """
  wanted = num_examples / (MIN_STEPS_PER_EPOCH * num_replicas)
  if wanted >= (largest := Recipe.batch_size or 1):
    return largest
  return max(MIN_BATCH_SIZE, 2 ** int(math.log2(max(1, wanted))))


def learning_rate(batch_size: int) -> float:
  """Returns the rate of a replica: linear in its batch (arXiv 1706.02677, section 2.1).

  >>> learning_rate(96), learning_rate(16)
  (0.045, 0.0075)
  """
  return round((Recipe.learning_rate or 0) * batch_size / (Recipe.batch_size or 1), 6)


def train_epochs(schedule: Schedule) -> float:
  """Returns the epochs of a training: enough of them, and enough steps.

  >>> train_epochs(Schedule(160, 16)), train_epochs(Schedule(96_000, 96))
  (150.0, 50.0)
  """
  return float(
    max(MIN_TRAIN_EPOCHS, math.ceil(MIN_TRAIN_STEPS / schedule.steps_per_epoch))
  )


def evaluation_epochs(epochs: float) -> float:
  """Returns the epochs between two evaluations of a training of so many.

  >>> evaluation_epochs(150.0), evaluation_epochs(20.0)
  (3.0, 1.0)
  """
  return max(1.0, epochs / MAX_EVALUATIONS)


def decay(train_steps: int, memory: float, largest: float) -> float:
  """Returns the decay of an average that remembers a fraction of the training.

  Args:
    train_steps: Number of steps of the training.
    memory: Fraction of the steps in the average's memory of 1 / (1 - decay) steps.
    largest: Decay of a training long enough for it.

  >>> decay(1500, memory=1 / 100, largest=0.997)
  0.9333
  >>> decay(1_000_000, memory=1 / 100, largest=0.997)
  0.997
  >>> decay(50, memory=1 / 100, largest=0.997)
  0.9
  """
  steps = max(10.0, train_steps * memory)
  return min(largest, round(1 - 1 / steps, 4))


def half_life(average_decay: float) -> float:
  """Returns the steps after which an average holds half of what it started from.

  >>> [round(half_life(decay), 1) for decay in (0.5, 0.99, 0.999)]
  [1.0, 69.0, 692.8]
  """
  return math.log(0.5) / math.log(average_decay) if average_decay > 0 else 0.0


def steps_needed(average_decay: float) -> int:
  """Returns the steps that a training needs for an average to forget its start.

  >>> steps_needed(0.99), steps_needed(0.9)
  (483, 47)
  """
  return math.ceil(HALF_LIVES * half_life(average_decay))


def complete(recipe: TrainingRecipe, num_replicas: int) -> tuple[Any, list[str]]:
  """Returns the recipe, now complete, and why each field that was None has its value.

  Args:
    recipe: Recipe whose number of training images is known.
    num_replicas: Number of replicas that share a step.

  Raises:
    UserError: If the number of images or the batch is impossible.
  """
  values = {
    field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)
  }
  reasons = []

  def choose(name: str, value: float, why: str) -> None:
    if values[name] is None:
      values[name] = value
      reasons.append(f"{name} = {value:g}: {why}")

  images = recipe.num_train_examples
  choose(
    "batch_size",
    batch_size(images, num_replicas),
    f"at least {MIN_STEPS_PER_EPOCH} steps an epoch of {images:,} images",
  )
  rate = learning_rate(values["batch_size"])
  choose(
    "learning_rate", rate, f"{Recipe.learning_rate} for {Recipe.batch_size} images"
  )
  schedule = Schedule(images, values["batch_size"] * num_replicas)
  choose(
    "train_epochs",
    train_epochs(schedule),
    f"at least {MIN_TRAIN_EPOCHS} epochs and {MIN_TRAIN_STEPS:,} steps",
  )
  for name in ("eval_every_epochs", "checkpoint_every_epochs"):
    choose(
      name,
      evaluation_epochs(values["train_epochs"]),
      f"at most {MAX_EVALUATIONS} in the training",
    )
  steps = schedule.steps(values["train_epochs"])
  for name, memory in (("norm_momentum", NORM_MEMORY), ("ema_decay", EMA_MEMORY)):
    value = decay(steps, memory, getattr(Recipe, name))
    choose(name, value, f"averages over {1 / (1 - value):,.0f} of {steps:,} steps")
  return type(recipe)(**values), reasons
