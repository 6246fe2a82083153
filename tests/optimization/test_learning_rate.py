import json
import pathlib

import helpers_deeplab
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.compat import keras
from mnv2_hpu.configs.schedules import Schedule
from mnv2_hpu.errors import UserError
from mnv2_hpu.optimization.learning_rate import (
  SlimExponentialDecay,
  SlowStartPolynomialDecay,
  learning_rate_table,
)

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "lr.json"
EXPONENTIAL = [
  case
  for case in json.loads(GOLDEN.read_text())["cases"]
  if "learning_rate_decay_type" not in case["flags"]
]


def of_slim(case):
  """The schedule that slim's flags of a golden case ask for."""
  flags = case["flags"]
  schedule = Schedule(case["num_samples"], flags["batch_size"] * flags["num_workers"])
  return SlimExponentialDecay(
    initial_learning_rate=0.045,
    decay_steps=schedule.steps(flags["num_epochs_per_decay"]),
    decay_rate=0.98,
    warmup_steps=schedule.fractional_steps(flags.get("warmup_epochs", 0)),
    scale=case["hvd_size"] or 1,
  )


@pytest.mark.parametrize("case", EXPONENTIAL, ids=lambda case: case["name"])
@pytest.mark.fidelity
def test_rates_have_the_bits_of_slims(case, fidelity):
  schedule = of_slim(case)
  rates = [schedule(tf.constant(step, tf.int64)) for step in case["steps"]]
  assert {rate.dtype for rate in rates} == {tf.float32}
  expected = np.array(case["lr"], np.float32)
  fidelity(
    f"learning rate, {case['name'].replace('_', ' ')}, {len(rates)} steps",
    f"last {expected[-1]:.9g}",
    f"last {float(rates[-1]):.9g}",
    np.abs(np.array(rates, np.float32) - expected).max(),
    "0, every bit",
  )
  np.testing.assert_array_equal(np.array(rates, np.float32), expected)


def test_rates_are_the_same_in_a_graph():
  case = next(c for c in EXPONENTIAL if c["name"] == "eight_hvd_warmup_5_epochs")
  schedule = of_slim(case)
  in_graph = tf.function(schedule, input_signature=[tf.TensorSpec([], tf.int64)])
  for step in case["steps"]:
    assert in_graph(step) == schedule(step)


def test_without_staircase_it_is_keras_exponential_decay():
  arguments = {"initial_learning_rate": 0.1, "decay_steps": 7, "decay_rate": 0.9}
  ours = SlimExponentialDecay(**arguments, staircase=False)
  theirs = keras.optimizers.schedules.ExponentialDecay(**arguments)
  for step in range(30):
    assert ours(step) == theirs(step)


def test_config_round_trip():
  schedule = of_slim(EXPONENTIAL[-2])
  restored = keras.optimizers.schedules.deserialize(
    keras.optimizers.schedules.serialize(schedule)
  )
  assert restored.get_config() == schedule.get_config()
  assert restored(1000) == schedule(1000)


@pytest.mark.parametrize(
  "wrong", [{"decay_steps": 0}, {"decay_steps": None}, {"warmup_steps": -1.0}]
)
def test_impossible_steps_are_named(wrong):
  arguments = {"decay_steps": 10, "warmup_steps": 0.0, **wrong}
  with pytest.raises(UserError, match=rf"{next(iter(wrong))} is"):
    SlimExponentialDecay(0.1, decay_rate=0.9, **arguments)


def test_the_table_goes_from_the_first_to_the_last_step():
  schedule = SlimExponentialDecay(1.0, decay_steps=10, decay_rate=0.5)
  rows = learning_rate_table(schedule, train_steps=41, steps_per_epoch=4, num_rows=5)
  assert [row.step for row in rows] == [0, 10, 20, 30, 40]
  assert [row.epoch for row in rows] == [0.0, 2.5, 5.0, 7.5, 10.0]
  assert [row.rate for row in rows] == [1.0, 0.5, 0.25, 0.125, 0.0625]


def test_the_table_of_a_constant_and_of_a_single_step():
  assert learning_rate_table(0.1, train_steps=1, steps_per_epoch=10) == [(0, 0.0, 0.1)]


DEEPLAB = [
  case
  for case in helpers_deeplab.load_json("lr_deeplab.json")
  if case["arguments"]["learning_policy"] == "poly"
  and "slow_start_burnin_type" not in case["arguments"]
]


def of_deeplab(arguments):
  """The schedule that research/deeplab's arguments ask for."""
  return SlowStartPolynomialDecay(
    initial_learning_rate=arguments["base_learning_rate"],
    decay_steps=int(
      arguments.get("decay_steps", arguments["training_number_of_steps"])
    ),
    end_learning_rate=arguments.get("end_learning_rate", 0.0),
    power=arguments["learning_power"],
    slow_start_steps=arguments["slow_start_step"],
    slow_start_learning_rate=arguments["slow_start_learning_rate"],
  )


@pytest.mark.parametrize("case", DEEPLAB)
@pytest.mark.fidelity
def test_polynomial_rates_are_those_of_deeplab(case, fidelity):
  schedule = of_deeplab(case["arguments"])
  rates = [schedule(tf.constant(step, tf.int64)) for step in case["steps"]]
  expected = np.array(case["learning_rate"], np.float32)
  difference = np.abs(np.array(rates, np.float32) - expected).max()
  fidelity(
    f"DeepLab learning rate, {case['arguments']['training_number_of_steps']} steps",
    f"first {expected[0]:.9g}",
    f"first {float(rates[0]):.9g}",
    difference,
    1e-9,
  )
  assert difference < 1e-9
  again = SlowStartPolynomialDecay.from_config(schedule.get_config())
  assert again(1234) == schedule(1234)


def test_a_slow_start_ends_within_the_training():
  arguments = {**DEEPLAB[0]["arguments"], "slow_start_step": 30000}
  with pytest.raises(UserError, match="below the 30000 steps of the training"):
    of_deeplab(arguments)
