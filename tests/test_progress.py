import io
import re

import pytest

from mnv2_hpu.progress import Progress


class Clock:
  """Seconds that pass only when told to."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


class Terminal(io.StringIO):
  def isatty(self):
    return True


def lines(stream):
  return stream.getvalue().splitlines()


def test_line_holds_count_rate_values_and_remaining_time():
  clock, stream = Clock(), io.StringIO()
  progress = Progress(
    880, "step", "train", images_per_unit=64, stream=stream, clock=clock
  )
  clock.now += 40.0
  progress.update(440, loss=0.53, learning_rate=0.045)
  assert lines(stream) == [
    "train 440/880 steps (50%) · 11 steps/s · 704 images/s · loss 0.53 · "
    "learning rate 0.045 · 00:40 remain"
  ]


def test_resumed_run_counts_only_its_own_steps_as_speed():
  clock, stream = Clock(), io.StringIO()
  progress = Progress(1000, "step", initial=900, stream=stream, clock=clock)
  clock.now += 10.0
  progress.update(950)
  assert lines(stream) == ["950/1,000 steps (95%) · 5 steps/s · 00:10 remain"]


def test_slow_start_leaves_the_estimate():
  clock, stream = Clock(), io.StringIO()
  progress = Progress(1000, "step", stream=stream, clock=clock, min_interval=0.0)
  clock.now += 100.0  # the graph is built
  progress.update(1)
  for done in range(2, 101):
    clock.now += 1.0
    progress.update(done)
  assert lines(stream)[-1].endswith("1 steps/s · 15:00 remain")


def test_plain_lines_keep_their_distance_and_end_with_the_last_state():
  clock, stream = Clock(), io.StringIO()
  with Progress(100, "image", stream=stream, clock=clock, min_interval=5.0) as progress:
    for done in range(1, 93):
      clock.now += 0.1
      progress.update(done)
  shown = [int(re.match(r"(\d+)/100", line)[1]) for line in lines(stream)]
  assert shown[-1] == 92
  assert len(shown) == 2


def test_end_is_shown_once_with_the_time_it_took():
  clock, stream = Clock(), io.StringIO()
  with Progress(3, "image", "evaluate", stream=stream, clock=clock) as progress:
    clock.now += 2.0
    progress.update(3, top1=0.975)
  assert lines(stream) == [
    "evaluate 3/3 images (100%) · 1.5 images/s · top1 0.975 · 00:02 in all"
  ]


@pytest.mark.parametrize("initial", [0, 20])
def test_terminal_shows_a_bar_that_ends_full(initial):
  clock, stream = Clock(), Terminal()
  with Progress(40, "step", "train", initial=initial, stream=stream, clock=clock) as p:
    clock.now += 4.0
    p.update(40)
  last = stream.getvalue().split("\r")[-1]
  assert last.startswith("#" * 20)  # a stream without a known encoding: ASCII
  assert "train 40/40 steps (100%)" in last


def test_nothing_is_written_where_nothing_was_done():
  stream = io.StringIO()
  with Progress(10, "step", stream=stream):
    pass
  assert stream.getvalue() == ""
