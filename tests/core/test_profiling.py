"""Which steps are traced, and what a mistake in the flag says."""

import importlib
import re

import pytest
import tensorflow as tf

from mnv2_hpu import driver_flags
from mnv2_hpu.core import profiling
from mnv2_hpu.errors import UserError


@pytest.fixture
def loop():
  """An inner loop that counts: `loop.calls` are the steps of each call."""

  class Loop:
    step = 0

    def __call__(self, iterator, num_steps):
      self.calls.append(int(num_steps))
      self.step += int(num_steps)

  loop = Loop()
  loop.calls = []
  return loop


@pytest.mark.parametrize(
  ("steps", "message"),
  [
    ("10", "must be two steps"),
    ("a,b", "must be two steps"),
    ("1,2,3", "must be two steps"),
    ("0,5", "1 <= first <= last <= 200"),
    ("20,10", "1 <= first <= last <= 200"),
    ("190,201", "1 <= first <= last <= 200"),
    ("10,150", "are 141 steps; at most 100 .*--profile_steps=10,109"),
  ],
)
def test_a_range_that_makes_no_sense_is_refused(steps, message, monkeypatch):
  monkeypatch.setattr(driver_flags, "profile_steps", lambda: steps.split(","))
  with pytest.raises(UserError, match=f"^--profile_steps={steps}.*{message}"):
    profiling.requested(200)


def test_without_the_flag_the_loop_is_left_alone(loop):
  assert profiling.requested(200) is None
  assert profiling.trace_steps(loop, None, lambda: loop.step, "") is loop


def test_all_steps_are_made_the_traced_ones_one_by_one(loop, tmp_path):
  steps = profiling.StepRange(4, 6)
  run = profiling.trace_steps(loop, steps, lambda: loop.step, str(tmp_path))
  run(None, tf.constant(5))  # a loop ends within the range
  run(None, tf.constant(5))

  assert loop.calls == [3, 1, 1, 1, 4]
  (trace,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
  # As TensorBoard's plugin reads it.
  name = "tensorflow.python.profiler.internal._pywrap_profiler"
  converter = importlib.import_module(name)
  if not hasattr(converter, "xspace_to_tools_data"):
    converter = importlib.import_module(f"{name}_plugin")
  shown, is_converted = converter.xspace_to_tools_data([str(trace)], "trace_viewer")
  assert is_converted
  assert set(re.findall(rb"train \d+", shown)) == {b"train 4", b"train 5", b"train 6"}


def test_a_run_that_resumes_behind_the_range_is_not_traced(loop, tmp_path):
  loop.step = 5
  steps = profiling.StepRange(4, 6)
  profiling.trace_steps(loop, steps, lambda: loop.step, str(tmp_path))(
    None, tf.constant(5)
  )

  assert loop.calls == [5]
  assert list(tmp_path.iterdir()) == []
