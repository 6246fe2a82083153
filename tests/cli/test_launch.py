"""Restarting processes that die; the processes are real, and small."""

import json
import os
import signal
import subprocess
import sys

import pytest

from mnv2_hpu.distribute import launcher

_LAUNCH = [sys.executable, "-m", "mnv2_hpu.cli.launch"]

# Dies by kill -9 until it has been started so often; notes its TF_CONFIG. Rank 0 dies
# only once every rank noted this start, as the launcher then ends the others at once.
_WORKER = """
import json, os, pathlib, signal, sys, time
folder, needed = pathlib.Path(sys.argv[1]), int(sys.argv[2])
alone = '{"task": {"index": 0}, "cluster": {"worker": ["here"]}}'
config = json.loads(os.environ.get("TF_CONFIG", alone))
rank = config["task"]["index"]
def starts(rank):
  noted = folder / f"starts-{rank}"
  return len(noted.read_text().splitlines()) if noted.exists() else 0
with open(folder / f"starts-{rank}", "a") as file:
  file.write(json.dumps(config) + "\\n")
if starts(rank) < needed:
  if rank == 0:
    while any(starts(r) < starts(0) for r in range(len(config["cluster"]["worker"]))):
      time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)
  time.sleep(60)  # as a rank that waits for the dead one
"""


def _launch(tmp_path, needed, *flags):
  command = [*_LAUNCH, *flags, "--", sys.executable, "-c", _WORKER]
  return subprocess.run(
    [*command, str(tmp_path), str(needed)],
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
  )


def _starts(tmp_path, rank):
  return [json.loads(line) for line in (tmp_path / f"starts-{rank}").open()]


def test_a_run_that_dies_is_started_again_until_it_ends_well(tmp_path):
  done = _launch(tmp_path, 2, "--max_restarts=3")
  assert done.returncode == 0
  assert "ended with code 137; restart 1 of 3" in done.stderr
  assert len(_starts(tmp_path, 0)) == 2


def test_restarts_are_counted_and_the_last_code_is_returned(tmp_path):
  done = _launch(tmp_path, 9, "--max_restarts=1")
  assert done.returncode == 128 + signal.SIGKILL
  assert len(_starts(tmp_path, 0)) == 2


def test_all_ranks_are_started_again_where_one_dies(tmp_path):
  done = _launch(tmp_path, 2, "--np=2", "--max_restarts=1")
  assert done.returncode == 0
  first, second = _starts(tmp_path, 0)
  assert [config["task"]["index"] for config in _starts(tmp_path, 1)] == [1, 1]
  assert len(set(first["cluster"]["worker"])) == 2
  assert first["cluster"] == _starts(tmp_path, 1)[0]["cluster"]
  assert second["cluster"] == _starts(tmp_path, 1)[1]["cluster"]


@pytest.mark.parametrize(("number", "expected"), [("auto", 1), ("2", 2)])
def test_processes_on_a_machine_without_accelerators_have_their_own_cores(
  number, expected
):
  cores = sorted(os.sched_getaffinity(0))
  if len(cores) < 2 or launcher.accelerators():
    pytest.skip("needs two cores and no accelerator")
  worker = "import os; print(*sorted(os.sched_getaffinity(0)), flush=True)"
  done = subprocess.run(
    [*_LAUNCH, f"--np={number}", "--", sys.executable, "-c", worker],
    capture_output=True,
    text=True,
    check=True,
  )
  is_chosen = number == "auto"
  assert ("--np=auto: processes: one, no accelerator here" in done.stderr) == is_chosen
  own = [[*map(int, line.split())] for line in done.stdout.splitlines()]
  assert len(own) == expected
  assert len({core for of_one in own for core in of_one}) == sum(map(len, own))


@pytest.mark.parametrize("number", ["-1", "two", "1025", "1.5", ""])
def test_what_is_no_number_of_processes_is_refused(number):
  done = subprocess.run(
    [*_LAUNCH, f"--np={number}", "--", "true"],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  assert f"error: --np={number}: allowed are 0 to 1024, and auto" in done.stderr


@pytest.mark.parametrize("saves", [True, False], ids=["saves", "ignores it"])
@pytest.mark.parametrize("stop_signal", ["SIGTERM", "SIGUSR1"])
def test_sigterm_is_handed_on_and_nothing_is_restarted(saves, stop_signal):
  handler = "lambda *_: sys.exit(143)" if saves else "signal.SIG_IGN"
  worker = (
    "import signal, sys, time; "
    f"signal.signal(signal.{stop_signal}, {handler}); "
    "print('up', flush=True); time.sleep(60)"
  )
  flags = [
    "--max_restarts=5",
    "--grace_seconds=1",
    f"--stop_signal={stop_signal}",
    "--",
  ]
  process = subprocess.Popen(
    [*_LAUNCH, *flags, sys.executable, "-c", worker], stdout=subprocess.PIPE, text=True
  )
  with process:
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == (143 if saves else 137)


def test_nothing_to_start_is_explained():
  done = subprocess.run(_LAUNCH, capture_output=True, text=True, check=False)
  assert done.returncode == 1
  assert "The command follows --" in done.stderr


def test_a_command_that_does_not_exist_is_explained():
  done = subprocess.run(
    [*_LAUNCH, "--max_restarts=3", "--", "no-such-command"],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  assert done.stderr.count("\n") == 1
  assert done.stderr.startswith("error: 'no-such-command' cannot be started: No such")


def test_sigterm_ends_the_wait_for_a_restart():
  flags = ["--max_restarts=5", "--", sys.executable, "-c", "raise SystemExit(7)"]
  process = subprocess.Popen([*_LAUNCH, *flags], stderr=subprocess.PIPE, text=True)
  with process:
    while "restart 2 of 5" not in process.stderr.readline():  # in 2 seconds
      pass
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=1.5) == 7
    assert process.stderr.read() == ""


def test_the_command_ends_with_a_launcher_that_is_killed(tmp_path):
  # One write a worker: print writes the end of the line apart, where another's fits in.
  worker = "import os, time; os.write(1, b'up\\n'); time.sleep(60)"
  flags = ["--np=2", "--", sys.executable, "-c", worker]
  process = subprocess.Popen([*_LAUNCH, *flags], stdout=subprocess.PIPE, text=True)
  with process:
    assert [process.stdout.readline() for _ in range(2)] == ["up\n", "up\n"]
    process.kill()
    # Ends once no worker holds the other side of the pipe.
    assert process.stdout.read() == ""
