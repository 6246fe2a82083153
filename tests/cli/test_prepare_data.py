"""The commands prepare_data and verify_data."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import helpers_images
import pytest

from mnv2_hpu.data_preparation import prepare
from mnv2_hpu.data_preparation.engines import beam
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo

pytestmark = pytest.mark.slow


def command(module, *flags):
  return [sys.executable, "-m", f"mnv2_hpu.cli.{module}", *map(str, flags)]


@pytest.fixture
def run(programs):
  return lambda module, *flags: programs.run(f"mnv2_hpu.cli.{module}", *flags)


@pytest.fixture
def folder(tmp_path):
  return helpers_images.write_folder(tmp_path / "images", {"ant": 12, "bee": 12})


def test_prepare_then_verify(run, folder, tmp_path):
  Path(folder, "bee", "cut.jpg").write_bytes(helpers_images.jpeg(1)[:500])
  output = tmp_path / "records"
  prepared = run("prepare_data", f"--input_dir={folder}", f"--output_dir={output}")
  assert prepared.returncode == 0, prepared.output
  assert "bee/cut.jpg: truncated or corrupt" in prepared.output
  assert "prepare: 25/25 images (100%)" in prepared.output
  shard = next(output.glob("train-*"))
  data = bytearray(shard.read_bytes())
  data[-50] ^= 4
  shard.write_bytes(data)
  verified = run("verify_data", f"--data_dir={output}", "--deep")
  assert verified.returncode == 1
  assert f"{shard.name}: record" in verified.output
  assert "Traceback" not in verified.output


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--input_dir={tmp}/nowhere", "--output_dir={tmp}/o"], "nowhere does not exist"),
    (["--input_dir={tmp}/images"], "--output_dir must have a value"),
    (["--inputdir=x"], "Did you mean: input_dir"),
    (
      ["--input_dir={tmp}/images", "--output_dir={tmp}/o", "stray"],
      "['stray']: understood by Apache Beam alone",
    ),
    (
      ["--input_dir={tmp}/images", "--output_dir={tmp}/o", "--source=image_folders"],
      "Did you mean 'image_folder'?",
    ),
    (
      ["--input_dir={tmp}/images", "--output_dir={tmp}/o", "--validation_fraction=3"],
      "--validation_fraction=3",
    ),
  ],
)
def test_mistakes_get_one_message_and_exit_code_1(
  run, folder, tmp_path, flags, message
):
  done = run("prepare_data", *(flag.format(tmp=tmp_path) for flag in flags))
  assert done.returncode == 1
  assert message in done.output
  assert "Traceback" not in done.output


@pytest.mark.parametrize("module", ["prepare_data", "verify_data"])
def test_help_shows_an_example(run, module):
  done = run(module, "--help")
  assert f"mnv2-{module.replace('_', '-')} --" in done.output
  assert "--num_processes" in done.output


def wait_for(condition, process):
  while not condition():
    assert process.poll() is None, "it ended before it could be interrupted"
    time.sleep(0.002)


def test_a_killed_run_continues_and_ends_with_the_same_bytes(run, tmp_path):
  folder = helpers_images.write_folder(tmp_path / "images", {"ant": 300, "bee": 300})
  output, whole = tmp_path / "out", tmp_path / "whole"
  flags = [f"--input_dir={folder}", f"--output_dir={output}"]
  flags += ["--num_train_shards=100", "--num_processes=2"]
  with subprocess.Popen(
    command("prepare_data", *flags), stderr=subprocess.DEVNULL
  ) as process:
    wait_for(lambda: len(list(output.glob("train-*"))) >= 3, process)
    os.kill(process.pid, signal.SIGSTOP)
    second = run("prepare_data", *flags)
    os.kill(process.pid, signal.SIGKILL)
  assert second.returncode == 1
  assert "another process is preparing" in second.output
  kept = {p: p.stat().st_mtime_ns for p in output.glob("train-*")}
  assert 3 <= len(kept) < 100
  assert DatasetInfo.find(output) is None
  assert run("prepare_data", *flags).returncode == 0
  assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
  prepare.prepare(prepare.PreparationOptions(folder, str(whole), num_train_shards=100))
  assert contents(output) == contents(whole)


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_help_names_every_source_and_runner(run):
  text = run("prepare_data", "--help").output
  for name in [*prepare.SOURCES, *beam.RUNNERS]:
    assert name in text
