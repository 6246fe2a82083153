"""Inner loops in chunks, and what a stop request does to them."""

import pytest
import tensorflow as tf

from mnv2_hpu.core import chunks, termination


@pytest.fixture
def loop():
  """An inner loop in chunks: `loop.run(steps)`, `loop.stop`, `loop.done`."""

  class Loop:
    done = 0
    stop = termination.StopRequest()

    def run(self, steps):
      made = chunks.Chunks(tf.distribute.get_strategy(), self.stop, 1.0, lambda: None)
      chunks.run_in_chunks(self._steps, made)(None, tf.constant(steps))

    def _steps(self, iterator, num_steps):
      self.done += int(num_steps)

  loop = Loop()
  loop.stop = termination.StopRequest()
  return loop


def test_all_steps_are_made(loop):
  loop.run(11)
  assert loop.done == 11


@pytest.mark.parametrize(("steps", "made"), [(11, 1), (0, 0)])
def test_a_stop_request_ends_a_loop_after_a_chunk_even_one_without_steps(
  loop, steps, made
):
  loop.stop.is_set = True
  with pytest.raises(termination.Preempted):
    loop.run(steps)
  assert loop.done == made
