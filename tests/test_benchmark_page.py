"""Tables of benchmarks that take turns: computed by hand, and the page that is kept."""

import doctest
import json
import sys

import pytest
from helpers_programs import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import peers
import run
import turns

TIMES = {
  ("start", "ours"): [1.0, 2.0, 4.0],
  ("start", "theirs"): [2.0, 3.0, 4.0],
  ("end", "ours alone"): [5.0],
}


def test_cases_take_turns_and_the_first_round_is_thrown_away():
  order = []

  def measure(name):
    order.append(name)
    return float(len(order))

  values = turns.take_turns(
    {("kind", name): lambda name=name: measure(name) for name in "ab"}, 2
  )
  assert order == ["a", "b"] * 3
  assert values == {("kind", "a"): [3.0, 5.0], ("kind", "b"): [4.0, 6.0]}


@pytest.mark.parametrize(
  ("more_is_better", "ahead"),
  [(False, "1.50 (1.00 to 2.00)"), (True, "0.67 (0.50 to 1.00)")],
)
def test_a_table_compares_round_by_round_with_ours(
  monkeypatch, tmp_path, capsys, more_is_better, ahead
):
  monkeypatch.setattr(turns, "RESULTS", tmp_path)
  turns.publish("it", "Title", "s", TIMES, more_is_better=more_is_better)
  result = json.loads((tmp_path / "it.json").read_text())
  assert turns.rows(result) == [
    ("start", "ours", "2 (1 to 4)", ""),
    ("start", "theirs", "3 (2 to 4)", ahead),
    ("end", "ours alone", "5", ""),
  ]
  assert ahead in capsys.readouterr().out


def test_the_page_is_that_of_the_numbers_that_are_kept():
  assert run.PAGE.read_text(encoding="utf-8") == run.page(run.kept())


def test_every_number_that_is_kept_is_of_a_part():
  assert {path.stem for path in turns.RESULTS.glob("*.json")} <= {*run.PARTS}


def test_the_examples_in_its_docstrings_hold():
  assert doctest.testmod(turns) == (0, 3)


def test_without_their_environment_peers_say_so_in_a_line(
  monkeypatch, tmp_path, capsys
):
  monkeypatch.setattr(peers, "_PYTHON", tmp_path / "python")
  with peers.Peers() as peer:
    assert not peer
    assert peer.versions == ""
  (line,) = capsys.readouterr().out.splitlines()
  assert "make setup-peers" in line
