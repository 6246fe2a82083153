"""Preparation by Apache Beam, in the environment that `make setup-beam` makes."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import helpers_imagenet
import helpers_images
import helpers_programs
import pytest

from mnv2_hpu.data_preparation import prepare
from mnv2_hpu.data_preparation.engines import beam
from mnv2_hpu.errors import UserError

BEAM_IS_HERE = importlib.util.find_spec("apache_beam") is not None
PYTHON = (
  Path(sys.executable)
  if BEAM_IS_HERE
  else helpers_programs.ROOT / ".venv-beam/bin/python"
)
needs_beam = pytest.mark.skipif(
  not PYTHON.exists(),
  reason="Apache Beam is NOT TESTED: it is not installed. `make setup-beam` does it.",
)
COUNTS = {"ant": 12, "bee": 20, "cat": 8}
TWO_PROCESSES = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


def run_python(*arguments):
  done = subprocess.run(
    [PYTHON, "-W", "ignore", *map(str, arguments)],
    cwd=helpers_programs.ROOT,
    env={**os.environ, "PYTHONPATH": str(helpers_programs.ROOT)},
    capture_output=True,
    text=True,
  )
  return done.returncode, done.stdout, done.stderr


def run_on_direct(folder, output, *flags):
  return run_python(
    *("-m", "mnv2_hpu.cli.prepare_data", "--runner=direct", "--num_parts=4"),
    *(f"--input_dir={folder}", f"--output_dir={output}", *flags),
  )


def contents(folder):
  return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture
def folder(tmp_path):
  return helpers_images.write_folder(tmp_path / "images", COUNTS)


def options(folder, output, **changes):
  return prepare.PreparationOptions(str(folder), str(output), **changes)


@needs_beam
@pytest.mark.checkout
@pytest.mark.slow
@pytest.mark.parametrize("source", ["image_folder", "imagenet"])
def test_records_are_those_of_a_local_run(tmp_path, source):
  if source == "imagenet":  # three tar files
    images = helpers_imagenet.write_archives(tmp_path / "images")
    workers = TWO_PROCESSES
  else:
    images = helpers_images.write_folder(tmp_path / "images", COUNTS)
    workers = ()
  shards = {"num_train_shards": 7, "num_validation_shards": 2}
  prepare.prepare(options(images, tmp_path / "local", source=source, **shards))

  code, text, errors = run_on_direct(
    *(images, tmp_path / "out", f"--source={source}"),
    *(f"--{name}={number}" for name, number in shards.items()),
    *("--", *workers),
  )

  assert code == 0, errors[-3000:]
  assert len(contents(tmp_path / "out")) == 7 + 2 + 1  # dataset.json
  assert contents(tmp_path / "out") == contents(tmp_path / "local")
  assert "images/s" in text  # which the workers have counted
  assert "resumed" not in text


@needs_beam
@pytest.mark.checkout
@pytest.mark.slow
def test_a_worker_s_error_is_one_message_and_leaves_what_is_finished(folder, tmp_path):
  bad, output = Path(folder, "bee", "019.jpg"), tmp_path / "out"
  good = bad.read_bytes()
  bad.write_bytes(good[:-40].ljust(len(good), b"\0"))  # as long as before

  code, _, errors = run_on_direct(folder, output, "--num_train_shards=20", "--strict")
  num_finished = len(list(output.glob("*-of-*")))
  bad.write_bytes(good)
  result = prepare.prepare(options(folder, output, num_train_shards=20, strict=True))

  assert code == 1
  assert "error: bee/019.jpg: truncated or corrupt" in errors
  assert "the same command continues" in errors
  assert "Traceback" not in errors
  assert 0 < num_finished < 21
  assert 0 < result.num_kept < 40


CODE = """
import json, sys
from mnv2_hpu.data_preparation import prepare
from mnv2_hpu.data_preparation.engines import beam
from mnv2_hpu.errors import UserError

errors = []
for number, (runner, *arguments) in enumerate(json.loads(sys.argv[2])):
  output = f"{sys.argv[1]}_{number}"
  try:
    beam.prepare(
      prepare.PreparationOptions(sys.argv[1], output), beam.Engine(runner, arguments)
    )
  except UserError as error:
    errors.append(str(error))
print(json.dumps(errors))
"""
# (runner, its options, what is said of them by the runner itself)
OPTIONS = (
  ("direct", "--direct_num_worker=2", "Did you mean 'direct_num_workers'"),
  ("direct", "--direct_num_workers=x", "--direct_num_workers: invalid int value: 'x'"),
  ("direct", "two", "two: Beam has no such option"),
  ("flink", "--flink_job_server_jar=no.jar", 'Unable to parse jar URL "no.jar"'),
  ("spark", "--spark_job_server_jar=no.jar", 'Unable to parse jar URL "no.jar"'),
  ("dataflow", "--region=us-east1", "Missing required option: project"),
)


@needs_beam
@pytest.mark.checkout
@pytest.mark.slow
def test_options_reach_the_runner_that_says_what_is_wrong(folder):
  given = json.dumps([row[:2] for row in OPTIONS])

  code, text, errors = run_python("-c", CODE, folder, given)

  assert code == 0, errors[-3000:]
  for message, (_, _, expected) in zip(json.loads(text), OPTIONS, strict=True):
    assert expected in message
  assert "Missing required option: region" not in text


@pytest.mark.skipif(BEAM_IS_HERE, reason="Apache Beam is installed")
def test_missing_beam_is_said_before_anything_is_written(folder, tmp_path):
  with pytest.raises(UserError, match=r"make setup-beam.*'mnv2-hpu\[beam\]'"):
    beam.prepare(options(folder, tmp_path / "out"), beam.Engine("direct"))
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("engine", "shard", "message"),
  [
    (beam.Engine("flnk"), "", "--runner=flnk is none. Did you mean 'flink'"),
    (beam.Engine(""), "", "Allowed: dataflow, direct, flink, spark"),
    (beam.Engine("direct"), "1/4", "--shard=1/4 is a part"),
    (beam.Engine("direct", (), -1), "", "--num_parts=-1: allowed are"),
    (beam.Engine(None, ["stray"]), "", r"\['stray'\]: understood by Apache Beam alone"),
    (beam.Engine(None, (), 4), "", "--num_parts=4: understood by Apache Beam alone"),
  ],
)
def test_what_does_not_fit_together_is_refused(
  folder, tmp_path, engine, shard, message
):
  with pytest.raises(UserError, match=message):
    beam.prepare(options(folder, tmp_path / "out", shard=shard), engine)
  assert not (tmp_path / "out").exists()


def test_without_a_runner_it_is_the_local_preparation(folder, tmp_path):
  prepare.prepare(options(folder, tmp_path / "one"))
  result = beam.prepare(options(folder, tmp_path / "other"), beam.Engine())
  assert result.num_written == 40
  assert contents(tmp_path / "one") == contents(tmp_path / "other")
