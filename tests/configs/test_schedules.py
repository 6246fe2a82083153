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


def test_a_duration_is_at_least_one_step_unless_it_is_none():
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
  ("rule", "num_replicas", "rate", "warmup_epochs"),
  [
    ("none", 8, 0.045, 0),
    ("slim", 8, 0.36, 0),
    ("linear", 8, 0.36, 5),
    ("none", 1, 0.045, 0),
    ("slim", 1, 0.045, 0),
    ("linear", 1, 0.045, 0),
  ],
)
def test_scaling_rules(rule, num_replicas, rate, warmup_epochs):
  assert schedules.scale_learning_rate(0.045, rule, num_replicas) == rate
  assert schedules.default_warmup_epochs(rule, num_replicas) == warmup_epochs


def test_an_unknown_rule_names_the_nearest():
  with pytest.raises(UserError, match="Did you mean 'linear'"):
    schedules.scale_learning_rate(0.045, "liner", 8)
  with pytest.raises(UserError, match="Did you mean 'slim'"):
    schedules.default_warmup_epochs("slimm", 8)


@pytest.mark.parametrize(("rate", "num_replicas"), [(0.0, 1), (math.nan, 1), (0.1, 0)])
def test_rates_and_replicas_must_be_positive(rate, num_replicas):
  with pytest.raises(UserError, match=r"must be (positive|1 or more)"):
    schedules.scale_learning_rate(rate, "none", num_replicas)
