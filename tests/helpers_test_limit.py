"""A pytest plugin: fails tests that take too long, and says what to do.

With `--max-test-seconds=60`, each body of a test, and each setup (of all fixtures that
the test is the first to use), may take 60 seconds. A test that must take longer is
marked `@pytest.mark.long("why")`. The JUnit report holds the CPU seconds of each test.

Machines differ, and other programs run on them. So that a test fails for what it does
only, seconds are neither those of the wall clock nor of the CPU alone:

* A wall clock that is ahead of the CPU time of the test and its programs means that the
  test waited: for a sleep, or for a busy machine. Of such seconds 40% count: a machine
  that is 2.5 times slower than usual fails nothing, a sleep of minutes is still found.
* CPU time beyond the wall clock, of programs side by side, does not count.
* The result is divided by how many times slower this machine runs a small loop than the
  one that the limit was chosen on.
"""

import os
import time

import helpers_programs
import pytest

WAITING_COUNTS = 0.4
REFERENCE_SECONDS = 0.044  # `_loop` took, on a 2-core virtual machine of 2026

_cpu_seconds_before = 0.0


def _loop():
  """Returns the CPU seconds of an arbitrary piece of work."""
  start = time.process_time()
  table = {}
  for i in range(300_000):
    table[i & 1023] = hash((i, i ^ 7))
  return time.process_time() - start


def _cpu_seconds():
  """CPU seconds of this process, its children that have ended, and all programs."""
  return sum(os.times()[:4]) + helpers_programs.Programs.cpu_seconds


def counted_seconds(wall, cpu, slowness):
  """Returns the seconds that count of a test; see the module's docstring.

  >>> counted_seconds(wall=100, cpu=30, slowness=1)  # a busy machine
  40.0
  >>> counted_seconds(wall=50, cpu=90, slowness=1)  # two programs at a time
  50.0
  >>> counted_seconds(wall=100, cpu=100, slowness=2)
  50.0
  """
  return min(wall, max(cpu, WAITING_COUNTS * wall)) / slowness


def pytest_addoption(parser):
  parser.addoption(
    "--max-test-seconds",
    type=float,
    help="fail tests that take longer and are not marked long(reason)",
  )


def pytest_configure(config):
  if config.getoption("--max-test-seconds"):
    config.slowness = max(1.0, min(_loop() for _ in range(5)) / REFERENCE_SECONDS)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
  """Called after each setup, body and teardown of a test."""
  global _cpu_seconds_before
  report = (yield).get_result()
  now = _cpu_seconds()
  cpu, _cpu_seconds_before = now - _cpu_seconds_before, now
  item.user_properties.append((f"cpu_seconds_{call.when}", round(cpu, 2)))
  limit = item.config.getoption("--max-test-seconds")
  if not limit or call.when == "teardown" or item.get_closest_marker("long"):
    return
  seconds = counted_seconds(call.duration, cpu, item.config.slowness)
  if seconds > limit and report.passed:
    report.outcome = "failed"
    report.longrepr = (
      f"{item.nodeid}: its {call.when} took {call.duration:.0f} s, of which "
      f"{seconds:.0f} s count (tests/helpers_test_limit.py); {limit:.0f} s are "
      "allowed. "
      "Share a run, take a smaller network, or mark the test "
      '@pytest.mark.long("reason").'
    )
