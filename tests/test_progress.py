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


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr("tqdm.std.time", clock)
  return clock


class Terminal(io.StringIO):
  def isatty(self):
    return True


def lines(stream):
  return stream.getvalue().splitlines()


def test_line_holds_count_rate_values_and_remaining_time(clock):
  stream = io.StringIO()
  progress = Progress(880, "step", "train", images_per_unit=64, file=stream)
  clock.now += 40.0
  progress.update_to(440, loss=0.53, learning_rate=0.045)
  assert lines(stream) == [
    "train: 440/880 steps (50%), 11 steps/s, 704 images/s, loss=0.53, "
    "learning_rate=0.045, 00:40 elapsed, 00:40 remain"
  ]


def test_resumed_run_counts_only_its_own_steps_as_speed(clock):
  stream = io.StringIO()
  progress = Progress(1000, "step", initial=900, file=stream)
  clock.now += 10.0
  progress.update_to(950)
  assert lines(stream) == [
    "950/1000 steps (95%), 5 steps/s, 00:10 elapsed, 00:10 remain"
  ]


def test_first_report_may_tell_the_total_and_what_was_done_before(clock):
  stream = io.StringIO()
  with Progress(unit="image", description="prepare", file=stream) as progress:
    clock.now += 10.0
    progress.update_to(900, 1000)
    assert lines(stream) == []
    clock.now += 10.0
    progress.update_to(950, 1000)
  assert "950/1000 images (95%), 2.5 images/s" in lines(stream)[0]
  assert len(lines(stream)) == 1


def test_slow_start_leaves_the_estimate(clock):
  stream = io.StringIO()
  progress = Progress(1000, "step", file=stream, min_interval=0.0)
  clock.now += 100.0  # the graph is built
  progress.update_to(1)
  for done in range(2, 101):
    clock.now += 1.0
    progress.update_to(done)
  assert lines(stream)[-1].endswith(" 1 steps/s, 03:19 elapsed, 15:00 remain")


def test_lines_keep_their_distance_and_end_with_the_last_state(clock):
  stream = io.StringIO()
  with Progress(100, "image", file=stream, min_interval=5.0) as progress:
    for done in range(1, 93):
      clock.now += 0.1
      progress.update_to(done)
  shown = [int(re.match(r"(\d+)/100", line)[1]) for line in lines(stream)]
  assert shown[-1] == 92
  assert len(shown) == 2


def test_end_is_shown_once_and_at_once(clock):
  stream = io.StringIO()
  with Progress(3, "image", "evaluate", file=stream) as progress:
    clock.now += 2.0
    progress.update_to(3, top1=0.975)
    assert len(lines(stream)) == 1
  assert lines(stream) == [
    "evaluate: 3/3 images (100%), 1.5 images/s, top1=0.975, 00:02 elapsed, 00:00 remain"
  ]


@pytest.mark.parametrize("initial", [0, 20])
def test_terminal_shows_a_bar_that_ends_full(clock, initial):
  stream = Terminal()
  with Progress(40, "step", "train", initial=initial, file=stream) as progress:
    clock.now += 4.0
    progress.update_to(40)
  last = stream.getvalue().split("\r")[-1]
  assert last.startswith("#" * 20)  # a stream without a known encoding: ASCII
  assert "train: 40/40 steps (100%)" in last


def test_nothing_is_written_where_nothing_was_done():
  stream = io.StringIO()
  with Progress(10, "step", file=stream):
    pass
  assert stream.getvalue() == ""
