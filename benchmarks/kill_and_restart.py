"""Kills trainings at random moments, restarts them, compares them with one left alone.

  make quickstart   # prepares the digits
  .venv/bin/python benchmarks/kill_and_restart.py --trials=20

Each trial is Model Garden's own driver in a process of its own, which SIGKILL ends one
to three times, at moments drawn from the time between its first step and its end. The
finished run must hold bit by bit what the run left alone holds: variables, slots,
EMA weights, best checkpoint, validation curve. Every process has one thread, for with
several a sum's order is not fixed.
"""

import concurrent.futures
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags

from mnv2_hpu.configs import gin_files
from mnv2_hpu.progress import Progress
from mnv2_hpu.reporting import curves

# The comparison is the one of the tests.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import helpers_checkpoint_diff

_TRIALS = flags.DEFINE_integer("trials", 20, "Runs to disturb.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments.")
_DATA_DIR = flags.DEFINE_string("data_dir", "build/quickstart/tfrecords", "Digits.")
_AT_ONCE = flags.DEFINE_integer("at_once", os.cpu_count(), "Trials side by side.")

_STEPS = 40
_BATCH = 32
_SETTINGS = {
  "batch_size": _BATCH,
  "eval_batch_size": 120,
  "log_every_steps": 2,
  "image_size": 32,
  "train_epochs": _STEPS * _BATCH / 1438,
  "checkpoint_every_epochs": 6 * _BATCH / 1438,
  "eval_every_epochs": 10 * _BATCH / 1438,
}


def _start(model_dir):
  command = [
    *(sys.executable, "-m", "official.vision.train"),
    "--experiment=mobilenet_v2_classification",
    f"--gin_file={gin_files.path('digits.gin')}",
    f"--gin_params=DATA_DIR = '{os.path.abspath(_DATA_DIR.value)}'",
    *(
      f"--gin_params=mobilenet_v2_classification.{k} = {v}"
      for k, v in _SETTINGS.items()
    ),
    "--mode=train_and_eval",
    f"--model_dir={model_dir}",
  ]
  threads = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
  with open(f"{model_dir}.log", "ab") as log:
    return subprocess.Popen(
      command, env={**os.environ, **threads}, stdout=log, stderr=log
    )


def _wait_until_it_trains(process, model_dir, since):
  record = Path(model_dir, "run_record.json")  # written just before the first step
  while process.poll() is None:
    if record.exists() and record.stat().st_mtime > since:
      return
    time.sleep(0.02)


def _finish(process, model_dir):
  if process.wait():
    tail = Path(f"{model_dir}.log").read_text(errors="replace")[-3000:]
    raise RuntimeError(f"{model_dir} ended with {process.returncode}:\n{tail}")


def _files(model_dir):
  """What a killed run had saved, and whether it was saving."""
  names = os.listdir(model_dir)
  steps = sorted(
    int(name[5:-6]) for name in names if re.fullmatch(r"ckpt-\d+\.index", name)
  )
  return f"ckpt {steps[-1] if steps else None}" + ", saving" * any(
    "_temp" in n for n in names
  )


def _undisturbed(model_dir):
  """Trains without a fault; returns the seconds from the first step to the end."""
  since = time.time()
  process = _start(model_dir)
  _wait_until_it_trains(process, model_dir, since)
  start = time.monotonic()
  _finish(process, model_dir)
  return time.monotonic() - start


def _disturbed(model_dir, moments):
  """Trains, killed at each of the moments; returns what it had saved by then."""
  said = []
  for moment in moments:
    since = time.time()
    process = _start(model_dir)
    _wait_until_it_trains(process, model_dir, since)
    try:
      process.wait(moment)
      break  # it had no more to do
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
      said.append(f"{moment:.1f} s ({_files(model_dir)})")
  else:
    process = _start(model_dir)
  _finish(process, model_dir)
  return said


def _differences(model_dir, undisturbed):
  found = []
  for folder in (".", "best_ckpt", "ema_checkpoints"):
    found += helpers_checkpoint_diff.differences(
      f"{model_dir}/{folder}", f"{undisturbed}/{folder}"
    )
  ours, theirs = (
    (
      json.loads(Path(run, "best_ckpt", "info.json").read_text()),
      curves.read_scalars(f"{run}/validation"),
    )
    for run in (model_dir, undisturbed)
  )
  return found + ["best_ckpt/info.json or validation"] * (ours != theirs)


def main(argv):
  """Runs the trials; ends with 1 if one of them differs."""
  del argv
  folder = Path(tempfile.mkdtemp())
  undisturbed = folder / "undisturbed"
  seconds = _undisturbed(undisturbed)
  print(f"left alone: {seconds:.1f} seconds from the first step to the end")
  draw = random.Random(_SEED.value)
  moments = [
    [draw.uniform(0, seconds) for _ in range(draw.randint(1, 3))]
    for _ in range(_TRIALS.value)
  ]

  def trial(number):
    model_dir = folder / f"trial{number}"
    said = _disturbed(model_dir, moments[number])
    differences = _differences(model_dir, undisturbed)
    shutil.rmtree(model_dir)
    return number, said, differences

  failed = kills = 0
  with (
    Progress(_TRIALS.value, "trial") as progress,
    concurrent.futures.ThreadPoolExecutor(_AT_ONCE.value) as pool,
  ):
    tasks = [pool.submit(trial, number) for number in range(_TRIALS.value)]
    for done, task in enumerate(concurrent.futures.as_completed(tasks), start=1):
      number, said, differences = task.result()
      kills, failed = kills + len(said), failed + bool(differences)
      verdict = "DIFFERS" if differences else "equal"
      print(f"trial {number}: {verdict}; killed after", "; ".join(said) or "its end")
      for difference in differences[:10]:
        print("  ", difference)
      progress.update_to(done)
  print(f"{_TRIALS.value} runs, {kills} kills, {failed} differ from the run left alone")
  shutil.rmtree(folder)
  return bool(failed)


if __name__ == "__main__":
  app.run(main)
