"""Which images are held out: stratified, seeded, independent of the other classes."""

import math
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from mnv2_hpu.errors import UserError

T = TypeVar("T")


def check_fraction(fraction: float) -> None:
  """Raises UserError unless `0 <= fraction < 1`."""
  if not 0 <= fraction < 1:
    raise UserError(
      f"--validation_fraction={fraction} is not a fraction to hold out: "
      "allowed are 0 (no validation split) up to, not including, 1."
    )


def check_names(kind: str, names: Iterable[str]) -> None:
  """Raises UserError unless all names are UTF-8.

  Args:
    kind: What they are names of, for the message.
    names: File names as Python has them: other bytes are surrogates.
  """
  for name in names:
    if (shown := os.fsencode(name).decode(errors="backslashreplace")) != name:
      raise UserError(
        f"the name of the {kind} '{shown}' is not UTF-8, which TensorFlow and "
        "dataset.json need. Rename it."
      )


def held_out(count: int, fraction: float) -> int:
  """Returns how many of a class's `count` images are held out.

  `count * fraction` rounded half up, but at least one image stays in training and,
  where the class has two or more, at least one is held out.

  >>> [held_out(count, 0.2) for count in (1, 2, 10, 178, 183)]
  [0, 1, 2, 36, 37]
  >>> held_out(100, 0.0)
  0
  """
  if fraction == 0 or count < 2:
    return 0
  return min(max(math.floor(count * fraction + 0.5), 1), count - 1)


def stratified(
  by_class: Mapping[str, Sequence[T]], fraction: float, seed: int
) -> tuple[dict[str, list[T]], dict[str, list[T]]]:
  """Splits each class's items into those to train on and those held out.

  What is held out of a class depends on that class's name and items and on the seed
  alone: adding a class moves nothing in the others.

  Args:
    by_class: Items by name of the class, in a fixed order.
    fraction: Fraction to hold out of each class, as `held_out` rounds it.
    seed: Seed of the choice.

  Returns:
    (train, validation): Items by class, each in the order they came in.

  Raises:
    UserError: If the name of a class is not UTF-8.

  >>> train, validation = stratified({"a": [1, 2, 3, 4], "b": [5, 6]}, 0.5, seed=0)
  >>> [len(items) for items in (train["a"], validation["a"], validation["b"])]
  [2, 2, 1]
  """
  check_names("class", by_class)
  train, validation = {}, {}
  for name, items in by_class.items():
    order = random.Random(f"{seed}:{name}").sample(range(len(items)), len(items))
    chosen = set(order[: held_out(len(items), fraction)])
    train[name] = [item for i, item in enumerate(items) if i not in chosen]
    validation[name] = [item for i, item in enumerate(items) if i in chosen]
  return train, validation
