"""Two workers in Model Garden's unmodified driver, started by mnv2-launch."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import helpers_checkpoint_diff
import helpers_mpirun
import helpers_programs
import pytest
import tensorflow as tf

from mnv2_hpu.core import run_record, termination
from mnv2_hpu.reporting import curves

pytestmark = [
  pytest.mark.slow,
  pytest.mark.long("two processes that each import TensorFlow and trace, on one core"),
]

TRAIN, VALIDATION = 1438, 359
BATCH = 16  # images of one rank
STEPS = 24


def _command(
  records,
  model_dir,
  steps,
  *more,
  launcher=("--np=2",),
  mpirun=(),
  log_every=1,
  eval_every=None,
):
  epochs_per_step = 2 * BATCH / TRAIN
  settings = {
    "batch_size": BATCH,
    "eval_batch_size": 50,
    "image_size": 32,
    "log_every_steps": log_every,
    "train_epochs": steps * epochs_per_step,
    "checkpoint_every_epochs": 2 * epochs_per_step,
    "eval_every_epochs": (eval_every or steps) * epochs_per_step,
    "distribution_strategy": "'multi_worker_mirrored'",
  }
  params = [f"mobilenet_v2_classification.{k} = {v}" for k, v in settings.items()]
  return [
    *(sys.executable, "-m", "mnv2_hpu.cli.launch", *launcher),
    *(
      "--",
      *mpirun,
      sys.executable,
      "-W",
      "ignore",
      "-m",
      "helpers_small_network",
      helpers_programs.STOCK_DRIVER,
    ),
    "--experiment=mobilenet_v2_classification",
    "--gin_file=gin/digits.gin",
    f"--gin_params=DATA_DIR = '{records}'",
    *(f"--gin_params={param}" for param in params),
    "--mode=train_and_eval",
    f"--model_dir={model_dir}",
    *more,
  ]


@contextlib.contextmanager
def _started(command, log):
  """A launcher whose output goes to a file; its ranks end with it."""
  tests = str(helpers_programs.TESTS)
  environ = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": tests}
  with open(log, "w") as output:
    process = subprocess.Popen(
      command, cwd=helpers_programs.ROOT, env=environ, stdout=output, stderr=output
    )
  try:
    yield process
  finally:
    process.terminate()
    process.wait()


def _ranks(process):
  """The process of each rank, in order."""
  children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
  return [int(child) for child in children.read_text().split()]


def _await(log, pattern, process):
  """Waits until the output shows a pattern."""
  while not re.search(pattern, log.read_text(errors="replace")):
    assert process.poll() is None, log.read_text(errors="replace")[-5000:]
    time.sleep(0.1)


def _newest_step(model_dir):
  return int(tf.train.latest_checkpoint(str(model_dir)).split("-")[-1])


def _run(command, log):
  with _started(command, log) as process:
    assert process.wait() == 0, log.read_text()[-5000:]


def _evaluating(records, model_dir, *more):
  """A training in loops of several steps with evaluations in between."""
  return _command(records, model_dir, STEPS, *more, log_every=4, eval_every=8)


@pytest.fixture(scope="module")
def undisturbed(digits_records, tmp_path_factory):
  """A run that nothing interrupts: its folder, output, and seconds to end."""
  folder = tmp_path_factory.mktemp("undisturbed")
  command = _evaluating(
    digits_records,
    folder / "run",
    # Model Garden's default, with which TensorFlow restores outside the scope.
    "--params_override=trainer.preemption_on_demand_checkpoint=true",
  )
  _run(command, folder / "log")
  finished = (folder / "run" / run_record.FINISHED_FILE).stat().st_mtime
  return folder / "run", (folder / "log").read_text(), time.time() - finished


def test_two_workers_train_and_evaluate(undisturbed):
  run, said, seconds = undisturbed
  assert seconds < 10  # no rank destroys its iterators, which may take a minute
  assert "is missing (" not in said
  assert "CollectiveAllReduceStrategy, 2 processes" in said
  assert _newest_step(run) == STEPS
  loss = curves.read_scalars(str(run / "train"))["training_loss"]
  assert [step for step, _ in loss] == [4, 8, 12, 16, 20, 24]
  found = curves.read_scalars(str(run / "validation"))["accuracy"]
  assert [step for step, _ in found] == [8, 16, 24]
  hits = found[-1][1] * VALIDATION  # each held-out digit counts once
  assert hits == pytest.approx(round(hits), abs=1e-3)


def test_a_killed_rank_is_named_and_the_run_goes_on_from_its_checkpoint(
  digits_records, tmp_path
):
  log, run = tmp_path / "log", tmp_path / "run"
  steps = 200
  command = _command(
    digits_records,
    run,
    steps,
    launcher=("--np=2", "--max_restarts=1", "--grace_seconds=20"),
  )
  with _started(command, log) as process:
    _await(log, r"train \| step: +5 ", process)
    os.kill(_ranks(process)[1], signal.SIGKILL)
    _await(log, r"restored from checkpoint", process)
    restored = int(re.search(r"restored .*ckpt-(\d+)", log.read_text())[1])
    _await(log, rf"train \| step: +{restored + 5} ", process)

    # SIGTERM to the launcher: all ranks leave a checkpoint behind, within 30 seconds.
    asked_at = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = process.wait()
    assert time.monotonic() - asked_at < 30

  said = log.read_text()
  assert re.search(r"rank 1 \(.*\) is missing .* have finished is \d+", said)
  first, separator, second = said.partition("; restart 1 of 1")
  assert separator
  assert first.endswith(f"ended with code {128 + signal.SIGKILL}")
  assert restored >= 3
  assert code == termination.EXIT_PREEMPTED, said[-5000:]
  assert second.count("SIGTERM: a checkpoint will be saved") == 2
  assert restored + 5 <= _newest_step(run) < steps


def test_ranks_of_mpirun_leave_a_checkpoint_behind(digits_records, tmp_path):
  """Open MPI kills ranks at once after a SIGTERM, but hands SIGUSR1 on."""
  log, run = tmp_path / "log", tmp_path / "run"
  command = _command(
    digits_records,
    run,
    200,
    launcher=("--stop_signal=SIGUSR1",),
    mpirun=helpers_mpirun.command(2),
  )
  with _started(command, log) as process:
    _await(log, r"train \| step: +4 ", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == termination.EXIT_PREEMPTED, log.read_text()[-5000:]
  said = log.read_text()
  assert "CollectiveAllReduceStrategy, 2 processes" in said
  assert said.count("SIGUSR1: a checkpoint will be saved") == 2
  assert 4 <= _newest_step(run) < 200


def test_an_ended_run_goes_on_bit_by_bit_and_a_finished_one_ends_at_once(
  undisturbed, digits_records, tmp_path
):
  run, log = tmp_path / "run", tmp_path / "log"
  command = _evaluating(digits_records, run)
  with _started(command, log) as process:
    _await(log, r"train \| step: +4 ", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == termination.EXIT_PREEMPTED, log.read_text()[-5000:]
  assert 4 <= _newest_step(run) < STEPS

  _run(command, log)
  differences = helpers_checkpoint_diff.differences(str(run), str(undisturbed[0]))
  # A counter of TensorFlow's preemption handler, which the other run has.
  assert [line for line in differences if "checkpointed_runs" not in line] == []
  validation, of_undisturbed = (
    curves.read_scalars(str(folder / "validation")) for folder in (run, undisturbed[0])
  )
  assert validation == of_undisturbed

  before = {*run.rglob("*")}
  _run(command, log)
  assert {path for path in run.rglob("*") if "tfevents" not in path.name} <= before
  assert curves.read_scalars(str(run / "validation")) == validation


def test_a_bad_loss_sends_all_ranks_back_together(digits_records, tmp_path):
  log = tmp_path / "log"
  command = _command(
    digits_records,
    tmp_path / "run",
    24,
    "--gin_params=mobilenet_v2_classification.learning_rate = 1e25",
    "--params_override=trainer.recovery_max_trials=1",
    log_every=2,
  )
  with _started(command, log) as process:
    assert process.wait() == 1
  said = log.read_text()
  bad = re.findall(r"the loss of step (\d+) is NaN or infinite; (going back)?", said)
  assert sorted(bad) == [("3", ""), ("3", ""), ("3", "going back"), ("3", "going back")]
  assert _newest_step(tmp_path / "run") == 2


def test_an_error_of_one_rank_is_told_by_the_other(digits_records, tmp_path):
  """A file that only one of them reads holds no images behind its first records."""
  records = shutil.copytree(digits_records, tmp_path / "records")
  path = records / "train-00000-of-00004"
  examples = [
    *map(
      tf.train.Example.FromString,
      tf.data.TFRecordDataset(str(path)).as_numpy_iterator(),
    )
  ]
  for example in examples[len(examples) // 2 :]:
    example.features.feature["image/encoded"].bytes_list.value[0] = b"no image"
  with tf.io.TFRecordWriter(str(path)) as writer:
    for example in examples:
      writer.write(example.SerializeToString())
  log = tmp_path / "log"
  command = _command(
    records,
    tmp_path / "run",
    STEPS,
    "--gin_params=mobilenet_v2_classification.max_corrupt_records = 0",
  )
  with _started(command, log) as process:
    # That of the rank that is the first to have ended.
    assert process.wait() in (1, termination.EXIT_PEER_LOST), log.read_text()[-5000:]
  problem = rf"The record at byte \d+ of '{path}' holds an image that cannot be decoded"
  said = log.read_text()
  assert len(re.findall(rf"^error: {problem}", said, re.MULTILINE)) == 1
  told = rf"^error: rank [01] .*is missing \(it ended with an error: {problem}"
  assert len(re.findall(told, said, re.MULTILINE)) == 1
