import json
import math
import pathlib

import pytest

from mnv2_hpu.configs import schedules
from mnv2_hpu.errors import UserError

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "lr.json"
SLIM_CASES = json.loads(GOLDEN.read_text())["cases"]


@pytest.mark.parametrize("case", SLIM_CASES, ids=lambda case: case["name"])
def test_steps_are_slims(case):
  flags = case["flags"]
  schedule = schedules.Schedule(
    case["num_samples"], flags["batch_size"] * flags["num_workers"]
  )
  assert schedule.steps_per_epoch == case["steps_per_epoch"]
  assert schedule.steps(flags["num_epochs_per_decay"]) == case["decay_steps"]


def test_a_duration_has_one_step_or_more_unless_it_is_zero():
  tiny = schedules.Schedule(num_examples=10, global_batch_size=96)
  assert tiny.steps(1) == 1
  assert tiny.steps(0) == 0
  assert tiny.fractional_steps(1) == 10 / 96


@pytest.mark.parametrize("name", ["num_examples", "global_batch_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_impossible_sizes_are_named(name, value):
  sizes = {"num_examples": 100, "global_batch_size": 10, name: value}
  with pytest.raises(UserError, match=rf"{name} is {value!r}.*positive integer"):
    schedules.Schedule(**sizes)


@pytest.mark.parametrize("epochs", [-1, math.nan, math.inf])
def test_impossible_durations_are_named(epochs):
  with pytest.raises(UserError, match=rf"{epochs!r} epochs"):
    schedules.Schedule(100, 10).steps(epochs)


@pytest.mark.parametrize(
  ("rule", "num_replicas", "factor", "warmup_epochs"),
  [
    ("none", 8, 1, 0),
    ("slim", 8, 8, 0),
    ("linear", 8, 8, 5),
    ("none", 1, 1, 0),
    ("slim", 1, 1, 0),
    ("linear", 1, 1, 0),
  ],
)
def test_scaling_rules(rule, num_replicas, factor, warmup_epochs):
  scaling = schedules.learning_rate_scaling(rule, num_replicas)
  assert scaling == (factor, warmup_epochs)


def test_an_unknown_rule_names_the_nearest():
  with pytest.raises(UserError, match="Did you mean 'linear'"):
    schedules.learning_rate_scaling("liner", 8)


def test_replicas_must_be_positive():
  with pytest.raises(UserError, match="num_replicas is 0; it must be 1 or more"):
    schedules.learning_rate_scaling("none", 0)
