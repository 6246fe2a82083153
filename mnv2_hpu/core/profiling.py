"""`--profile_steps=10,20`: a trace of these training steps for TensorBoard.

It is no setting of the run: a run resumes with or without it, and trains the same bits.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
from absl import logging

from mnv2_hpu import driver_flags
from mnv2_hpu.errors import UserError

MAX_STEPS = 100  # a trace of more is too large for TensorBoard's trace viewer

Loop = Callable[[Any, tf.Tensor], Any]


class StepRange(NamedTuple):
  """Steps from `first` to `last`, both included, counted from 1."""

  first: int
  last: int


def requested(train_steps: int) -> StepRange | None:
  """Returns the steps that the running driver's flag names, None where it has none.

  Args:
    train_steps: Steps of the whole run.

  Raises:
    UserError: If they are not two steps of the run in their order, or too many.
  """
  given = driver_flags.profile_steps()
  if not given:
    return None
  text = f"--profile_steps={','.join(given)}"
  try:
    first, last = map(int, given)
  except ValueError as error:
    raise UserError(
      f"{text} must be two steps, the first and the last one to trace: "
      "--profile_steps=10,20"
    ) from error
  if not 1 <= first <= last <= train_steps:
    raise UserError(
      f"{text}: allowed are 1 <= first <= last <= {train_steps}, the steps of this run."
    )
  if last - first >= MAX_STEPS:
    raise UserError(
      f"{text} are {last - first + 1} steps; at most {MAX_STEPS} can be traced: "
      f"--profile_steps={first},{first + MAX_STEPS - 1}"
    )
  return StepRange(first, last)


def trace_steps(
  loop: Loop, steps: StepRange | None, current_step: Callable[[], int], folder: str
) -> Loop:
  """Returns orbit's inner loop `loop(iterator, num_steps)`, traced at some steps.

  Args:
    loop: Inner loop.
    steps: Steps to trace, one call of `loop` each; None returns `loop` itself.
    current_step: Returns the number of steps that were made.
    folder: Folder of the run; the trace goes to its `plugins/profile`.
  """
  if steps is None:
    return loop
  profiler = tf.profiler.experimental
  is_tracing = False

  def run(iterator: Any, num_steps: tf.Tensor) -> None:
    nonlocal is_tracing
    end = current_step() + int(num_steps)
    while (step := current_step() + 1) <= end:
      if step == steps.first:
        profiler.start(folder)
        is_tracing = True
      if not is_tracing:
        until = steps.first - 1 if step < steps.first else end
        loop(iterator, tf.constant(min(end, until) - step + 1, tf.int32))
        continue
      with profiler.Trace("train", step_num=step, _r=1):
        loop(iterator, tf.constant(1, tf.int32))
        current_step()  # waits until the device has made the step
      if step == steps.last:
        profiler.stop()
        is_tracing = False
        logging.info("The trace of steps %d to %d is in %s.", *steps, folder)

  return run
