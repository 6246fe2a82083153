"""Trainings of a few steps through Model Garden's driver, and whether two are equal."""

import json

import helpers_checkpoint_diff
import helpers_programs

from mnv2_hpu.reporting import curves

# The driver, with a network that is soon traced.
DRIVER = ("helpers_small_network", helpers_programs.STOCK_DRIVER)


def arguments(experiment, gin_file, records, model_dir, *, mode, settings):
  """Arguments of the driver; `settings` are fields of the experiment's recipe."""
  return [
    f"--experiment={experiment}",
    f"--gin_file={gin_file}",
    f"--gin_params=DATA_DIR = '{records}'",
    *(f"--gin_params={experiment}.{k} = {v}" for k, v in settings.items()),
    f"--mode={mode}",
    f"--model_dir={model_dir}",
  ]


def run(programs, args):
  """Runs the driver to its end; returns what it printed."""
  done = programs.run(*DRIVER, *args)
  assert done.returncode == 0, done.output[-3000:]
  return done.output


def kill(programs, fault, args):
  """Runs the driver until it kills itself; see `helpers_faulty_run`."""
  done = programs.run("helpers_faulty_run", fault, *args)
  assert done.returncode == -9, done.output[-3000:]


def validation(model_dir):
  """Curves of the evaluations, by metric."""
  return curves.read_scalars(str(model_dir / "validation"))


def assert_same(one, other):
  """The variables, slots, averages, best checkpoint and validation curves are equal."""
  for folder in (".", "best_ckpt", "ema_checkpoints"):
    paths = (str(model_dir / folder) for model_dir in (one, other))
    assert helpers_checkpoint_diff.differences(*paths) == [], folder
  notes = [
    json.loads((model_dir / "best_ckpt" / "info.json").read_text())
    for model_dir in (one, other)
  ]
  assert notes[0] == notes[1]
  assert validation(one) == validation(other)
