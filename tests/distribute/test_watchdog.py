"""Ranks that vanish, freeze and end: real processes, joined by sockets alone."""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import time
import types

import pytest

from mnv2_hpu.core import termination
from mnv2_hpu.distribute import watchdog

_KEY = 7
_SILENCE = 1.5  # seconds; the default is as many heartbeats
_SECONDS = {
  "_HEARTBEAT_SECONDS": 0.02,
  "_MAX_HEARTBEAT_SECONDS": 0.5,
  "_SAME_ERROR_SECONDS": 2.0,
}


def _watchdog(rank, size=3):
  strategy = types.SimpleNamespace(rank=rank, size=size)
  settings = termination.FaultSettings(missing_rank_seconds=_SILENCE)
  return watchdog.Watchdog(strategy, settings)


def _run_rank(rank, port, output, pipe):
  """One rank, until the test has it end; says through the pipe what it knows."""
  os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 2)
  sys.stderr = os.fdopen(2, "w")
  own = _watchdog(rank)
  if rank == 0:
    pipe.send(own.listen(_KEY))
  else:
    own.connect("127.0.0.1", port, _KEY)
  own._connect_all = lambda: None
  own.start()
  own.record_progress(40 + rank)
  while own._common_step < 40:
    time.sleep(_SECONDS["_HEARTBEAT_SECONDS"])
  pipe.send("ready")
  message = pipe.recv()  # as a rank waits in a collective
  if message == "stop":
    own.stop()
  else:
    with contextlib.suppress(ValueError), own.broadcast_errors():
      raise ValueError(message)
  pipe.send("done")


class _Rank:
  """A rank as the test sees it."""

  def __init__(self, rank, port, output):
    fork = multiprocessing.get_context("fork")
    self.pipe, theirs = fork.Pipe()
    self._output = output
    self._process = fork.Process(target=_run_rank, args=(rank, port, output, theirs))
    self._process.start()
    theirs.close()
    self.pid = self._process.pid

  def send_signal(self, number):
    os.kill(self.pid, number)

  def end(self, message):
    """Lets the rank end in its own way; returns its exit code."""
    self.pipe.send(message)
    assert self.pipe.recv() == "done"
    return self.wait()[0]

  def wait(self):
    """Returns (exit code, what it said)."""
    self._process.join(30)
    return self._process.exitcode, self._output.read_text()

  def kill(self):
    """Ends the process if it still runs."""
    self._process.kill()
    self._process.join()


@pytest.fixture
def ranks(monkeypatch, tmp_path):
  """Three ranks that know of each other's steps 40, 41 and 42."""
  for name, value in _SECONDS.items():
    monkeypatch.setattr(watchdog, name, value)
  monkeypatch.setattr(watchdog.ranks, "rank", lambda strategy: strategy.rank)
  monkeypatch.setattr(watchdog.ranks, "size", lambda strategy: strategy.size)
  started, port = [], 0
  for rank in range(3):
    started.append(_Rank(rank, port, tmp_path / str(rank)))
    port = port or started[0].pipe.recv()
  for rank in started:
    assert rank.pipe.recv() == "ready"
  yield started
  for rank in started:
    rank.kill()


def test_others_end_and_name_a_killed_rank_and_the_last_common_step(ranks):
  ranks[2].send_signal(signal.SIGKILL)
  for code, said in (rank.wait() for rank in ranks[:2]):
    assert code == 75
    assert said.startswith(f"error: rank 2 (process {ranks[2].pid} on ")
    assert "is missing (its process has ended)" in said
    assert "are known to have finished is 40." in said


@pytest.mark.parametrize("frozen", [0, 1])
def test_others_end_and_name_a_frozen_rank_which_then_blames_itself(ranks, frozen):
  ranks[frozen].send_signal(signal.SIGSTOP)
  for rank in ranks:
    if rank is not ranks[frozen]:
      code, said = rank.wait()
      assert code == 75
      assert said.startswith(f"error: rank {frozen} (process {ranks[frozen].pid} on ")
      assert f"no heartbeat for {_SILENCE} seconds" in said
  ranks[frozen].send_signal(signal.SIGCONT)
  code, said = ranks[frozen].wait()
  assert code == 75
  assert said.startswith(f"error: rank {frozen} (process {ranks[frozen].pid} on ")
  assert "was stopped for" in said
  assert "is missing" not in said


def test_a_job_that_was_frozen_as_a_whole_goes_on(ranks):
  for rank in ranks:
    rank.send_signal(signal.SIGSTOP)
  time.sleep(2 * _SILENCE)
  for rank in ranks:
    rank.send_signal(signal.SIGCONT)
  for rank in ranks:
    assert rank.end("stop") == 0


def test_others_end_and_name_rank_0_where_it_is_killed(ranks):
  ranks[0].send_signal(signal.SIGKILL)
  for code, said in (rank.wait() for rank in ranks[1:]):
    assert code == 75
    assert said.startswith(f"error: rank 0 (process {ranks[0].pid} on ")


def test_ranks_that_stop_are_not_missed(ranks):
  for rank in (ranks[1], ranks[0], ranks[2]):
    assert rank.end("stop") == 0


@pytest.mark.parametrize("failing", [0, 2])
def test_others_end_and_cite_the_error_of_a_rank(ranks, failing):
  assert ranks[failing].end("7 is no label") == 0
  for code, said in (rank.wait() for rank in ranks if rank is not ranks[failing]):
    assert code == 75
    assert said.startswith(f"error: rank {failing}")
    assert "is missing (it ended with an error: ValueError: 7 is no label)" in said


def test_ranks_that_meet_one_error_each_end_with_their_own(ranks):
  for rank in (ranks[1], ranks[0], ranks[2]):
    assert rank.end("…") == 0


def test_a_stranger_is_not_taken_for_a_rank(monkeypatch):
  monkeypatch.setattr(watchdog.ranks, "rank", lambda strategy: strategy.rank)
  monkeypatch.setattr(watchdog.ranks, "size", lambda strategy: strategy.size)
  server = _watchdog(0)
  port = server.listen(_KEY)
  with socket.create_connection(("127.0.0.1", port)) as connection:
    connection.sendall(b'{"key": 8, "rank": 1}\n')
    assert connection.recv(100) == b""  # closed by rank 0
  assert not server._connections
