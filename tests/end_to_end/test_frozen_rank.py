"""A rank that is stopped: for a moment, and for good. All with default settings.

It takes as long as the default of `missing_rank_seconds`, so all launchers and
strategies wait for it together.
"""

import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import helpers_mpirun
import helpers_programs
import pytest

from mnv2_hpu import cluster
from mnv2_hpu.core import termination

pytestmark = [
  pytest.mark.slow,
  pytest.mark.long("waits for the default limit of a silent rank, three runs at once"),
]

LIMIT = termination.FaultSettings().missing_rank_seconds
SHORT = 20  # seconds: survived; the transports themselves would give up after 10 or 30
LONGEST = 120  # seconds until all have ended

DRIVER = [
  *(sys.executable, "-W", "ignore"),
  *("-m", "helpers_small_network", helpers_programs.STOCK_DRIVER),
]
HOROVODRUN = [str(pathlib.Path(sys.executable).with_name("horovodrun")), "-np", "2"]
MNV2_LAUNCH = [sys.executable, "-m", "mnv2_hpu.cli.launch", "--np=2", "--"]

# launcher -> (its command, strategy, rank that is frozen)
CASES = {
  "mnv2-launch": (MNV2_LAUNCH, "multi_worker_mirrored", 0),
  "mpirun": (helpers_mpirun.command(2), "horovod", 1),
  "horovodrun": (HOROVODRUN, "horovod", 0),
}
IDS = [
  pytest.param(
    name, marks=[helpers_mpirun.needs_horovod] if strategy == "horovod" else []
  )
  for name, (_, strategy, _) in CASES.items()
]


def _command(launcher, strategy, records, model_dir):
  recipe = {
    "batch_size": 16,
    "image_size": 32,
    "log_every_steps": 1,
    "train_epochs": 1000,
    "eval_every_epochs": 1000,
    "distribution_strategy": f"'{strategy}'",
  }
  params = [f"mobilenet_v2_classification.{k} = {v}" for k, v in recipe.items()]
  return [
    *(*launcher, *DRIVER),
    "--experiment=mobilenet_v2_classification",
    "--gin_file=gin/digits.gin",
    *(f"--gin_params={param}" for param in (*params, f"DATA_DIR = '{records}'")),
    "--mode=train",
    f"--model_dir={model_dir}",
  ]


@dataclasses.dataclass
class Run:
  """A training under a launcher, of which one rank will be frozen."""

  frozen: int
  log: pathlib.Path
  process: subprocess.Popen
  seconds: float = 0.0  # from the freeze until all had ended

  def said(self):
    return self.log.read_text(errors="replace")

  def step(self):
    """The last step that the progress shows."""
    return max(map(int, re.findall(r"train \| step: +(\d+)", self.said())), default=0)

  def await_step(self, step):
    while self.step() < step:
      assert self.process.poll() is None, self.said()[-5000:]
      time.sleep(0.1)

  def ranks(self):
    """Rank -> process, of those that are alive."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
      try:
        argv = (folder / "cmdline").read_text().split("\0")
        variables = (folder / "environ").read_text().split("\0")
      except OSError:  # it has ended, or is another's
        continue
      if argv[: len(DRIVER)] == DRIVER and f"--model_dir={self.log.parent}/run" in argv:
        environ = dict(line.split("=", 1) for line in variables if "=" in line)
        found[cluster.rank(environ)] = int(folder.name)
    return found

  def signal(self, number):
    os.kill(self.ranks()[self.frozen], number)


@pytest.fixture(scope="module")
def runs(digits_records, tmp_path_factory):
  """Name -> run, of which a rank was frozen twice and which has ended."""
  started = {}
  for param in IDS:
    (name,) = param.values
    if any(mark.args and mark.args[0] for mark in param.marks):
      continue  # Horovod is not installed
    launcher, strategy, frozen = CASES[name]
    folder = tmp_path_factory.mktemp(name)
    command = _command(launcher, strategy, digits_records, folder / "run")
    with open(folder / "log", "w") as output:
      process = subprocess.Popen(
        command,
        cwd=helpers_programs.ROOT,
        env={
          **os.environ,
          "PYTHONUNBUFFERED": "1",
          "PYTHONPATH": str(helpers_programs.TESTS),
        },
        stdout=output,
        stderr=output,
      )
    started[name] = Run(frozen, folder / "log", process)
  try:
    _freeze(started.values())
    yield started
  finally:
    for run in started.values():
      for pid in run.ranks().values():
        os.kill(pid, signal.SIGKILL)
      run.process.kill()
      run.process.wait()


def _freeze(runs):
  for run in runs:
    run.await_step(3)
  for run in runs:
    run.signal(signal.SIGSTOP)
  time.sleep(SHORT)
  steps = [run.step() for run in runs]
  for run in runs:
    run.signal(signal.SIGCONT)
  for run, step in zip(runs, steps, strict=True):
    run.await_step(step + 3)
  start = time.monotonic()
  for run in runs:
    run.signal(signal.SIGSTOP)
  while any(not run.seconds for run in runs) and time.monotonic() < start + 2 * LONGEST:
    for run in runs:
      if not run.seconds and run.process.poll() is not None and not run.ranks():
        run.seconds = time.monotonic() - start
    time.sleep(0.2)


@pytest.mark.parametrize("name", IDS)
def test_a_frozen_rank_is_named_and_ends_all(runs, name):
  run = runs[name]
  said = run.said()
  assert LIMIT - 5 < run.seconds < LONGEST, said[-5000:]
  missed = rf"error: rank {run.frozen} (\(.*\) )?is missing"
  missed += rf" \(no heartbeat for {LIMIT:g} seconds\)"
  assert len(re.findall(missed, said)) == 1
  # That of horovodrun itself has no prefix.
  assert (">:Traceback" if name == "horovodrun" else "Traceback") not in said
  code = run.process.returncode
  if name == "horovodrun":  # says the ranks' own codes
    assert code == 1
    assert f"Exit code: {termination.EXIT_PEER_LOST}" in said
  else:
    assert code == termination.EXIT_PEER_LOST
