"""Ranks that vanish, freeze and leave: real processes, without TensorFlow."""

import signal
import subprocess
import sys

import pytest

from mnv2_hpu.distribute import heartbeat

_SILENCE = 3  # seconds

_RANK = f"""
import os, sys, time
from mnv2_hpu.distribute import heartbeat

def on_missing(message):
  print(message, flush=True)
  os._exit(75)

rank, port = int(sys.argv[1]), int(sys.argv[2])
own = heartbeat.Heartbeat(rank, 3, {_SILENCE}, on_missing)
if rank == 0:
  print(own.listen(key=7), flush=True)
else:
  own.connect("127.0.0.1", port, key=7)
own.record_step(40 + rank)
for line in sys.stdin:  # ended by the test
  own.stop() if line == "leave\\n" else own.fail(line.strip())
  print("left", flush=True)
"""


@pytest.fixture
def ranks():
  processes = []
  port = "0"
  for rank in range(3):
    process = subprocess.Popen(
      [sys.executable, "-c", _RANK, str(rank), port],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    processes.append(process)
    port = process.stdout.readline().strip() if rank == 0 else port
  # Two rounds of lines, so that all know the last common step.
  with pytest.raises(subprocess.TimeoutExpired):
    processes[0].wait(timeout=3.5)
  yield processes
  for process in processes:
    process.kill()
    process.wait()
    process.stdout.close()


def _endings(processes):
  texts = [process.stdout.read() for process in processes]
  return [process.wait() for process in processes], texts


def test_others_end_and_name_a_killed_rank_and_the_last_common_step(ranks):
  ranks[2].kill()
  codes, texts = _endings(ranks[:2])
  assert codes == [75, 75]
  for text in texts:
    assert text.startswith(f"rank 2 (process {ranks[2].pid} on ")
    assert "is missing (its process has ended)" in text
    assert "are known to have finished is 40." in text


def test_others_end_and_name_a_frozen_rank(ranks):
  ranks[1].send_signal(signal.SIGSTOP)
  codes, texts = _endings([ranks[0], ranks[2]])
  assert codes == [75, 75]
  for text in texts:
    assert text.startswith(f"rank 1 (process {ranks[1].pid} on ")
    assert f"no sign of life for {_SILENCE} seconds" in text


def test_others_end_and_name_rank_0_where_it_is_killed(ranks):
  ranks[0].kill()
  codes, texts = _endings(ranks[1:])
  assert codes == [75, 75]
  assert all(text.startswith("rank 0 is missing") for text in texts)


def _say(process, line):
  """Lets a rank leave or fail; returns its exit code."""
  process.stdin.write(f"{line}\n")
  process.stdin.close()
  assert process.stdout.readline() == "left\n"
  return process.wait()


def test_ranks_that_leave_are_not_missed(ranks):
  for process in (ranks[1], ranks[0], ranks[2]):
    assert _say(process, "leave") == 0


@pytest.mark.parametrize("failing", [0, 2])
def test_others_end_and_cite_the_error_of_a_rank(ranks, failing):
  others = [process for process in ranks if process is not ranks[failing]]
  assert _say(ranks[failing], "ValueError: 7 is no label") == 0
  codes, texts = _endings(others)
  assert codes == [75, 75]
  for text in texts:
    assert text.startswith(f"rank {failing}")
    assert "is missing (it ended with an error: ValueError: 7 is no label)" in text


def test_ranks_that_meet_one_error_each_end_with_their_own(ranks):
  for process in (ranks[1], ranks[0], ranks[2]):
    assert _say(process, "RanksDifferError: …") == 0


def test_a_stranger_is_not_taken_for_a_rank():
  missing = []
  server = heartbeat.Heartbeat(0, 2, _SILENCE, missing.append)
  port = server.listen(key=7)
  stranger = heartbeat.Heartbeat(1, 2, _SILENCE, missing.append)
  stranger.connect("127.0.0.1", port, key=8)
  with stranger._connections[0] as connection:
    assert connection.recv(100) == b""  # closed by rank 0
