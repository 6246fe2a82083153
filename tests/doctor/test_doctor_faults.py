"""Each fault is made for real, and the doctor of a fresh process finds it."""

import contextlib
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mnv2_hpu.doctor import folders, machine_checks, memory, tensorflow_probe

NOBODY = 65534
NO_TENSORFLOW = "raise ImportError('no TensorFlow today')"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


def doctor(*flags, env=None, limits=(), **options):
  """Runs the doctor; returns its exit code and topic -> (status, text with advice)."""

  def lower():
    for name, value in limits:
      resource.setrlimit(name, (value, value))

  done = subprocess.run(
    [sys.executable, "-m", "mnv2_hpu.cli.doctor", *flags],
    capture_output=True,
    text=True,
    env={**os.environ, **(env or {})},
    preexec_fn=lower,
    **options,
  )
  assert "Traceback" not in done.stderr, done.stderr
  report = done.stdout.partition("No Gaudi device")[0]
  rows = re.findall(
    r"^(ok|note|warn|fail) +(.{20}) (.*(?:\n +->.*)?)", report, re.MULTILINE
  )
  return done.returncode, {
    topic.strip(): (status, text) for status, topic, text in rows
  }


@pytest.fixture
def shadow(tmp_path):
  """A folder that PYTHONPATH puts first; its TensorFlow ends at once."""
  folder = tmp_path / "shadow"
  (folder / "tensorflow").mkdir(parents=True)
  (folder / "tensorflow/__init__.py").write_text(NO_TENSORFLOW)
  return folder


def install(folder, name, version):
  """Makes a distribution that is found before the installed one."""
  info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
  info.mkdir()
  (info / "METADATA").write_text(
    f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
  )


@pytest.fixture
def open_folder():
  """A folder that every user reaches, as `tmp_path` is not."""
  with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o755)
    yield Path(folder)


@contextlib.contextmanager
def as_another_user():
  """Takes root's privileges away, to whom every folder is open."""
  user = os.geteuid()
  os.seteuid(user or NOBODY)
  try:
    yield
  finally:
    os.seteuid(user)


@contextlib.contextmanager
def mounted(folder, options):
  """Puts a file system in memory over a folder."""
  command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
  if subprocess.run(command, capture_output=True).returncode:
    pytest.skip("mounting is not allowed here")
  try:
    yield
  finally:
    subprocess.run(["umount", str(folder)], check=True)


def row(results, topic):
  return next(r for r in results if r.topic == topic)


@pytest.mark.slow
def test_faults_of_packages_and_variables(shadow, tmp_path):
  (shadow / "horovod").mkdir()
  (shadow / "horovod/__init__.py").touch()
  install(shadow, "horovod", "0.28.1")
  install(shadow, "protobuf", "2.0.0")
  install(shadow, "habana-tensorflow", "1.13.0.463")
  hl_smi = tmp_path / "bin" / "hl-smi"
  hl_smi.parent.mkdir()
  hl_smi.write_text("#!/bin/sh\necho '| Driver Version: 1.15.1-62f612b |'\n")
  hl_smi.chmod(0o755)

  code, rows = doctor(
    env={
      "PYTHONPATH": str(shadow),
      "PATH": str(hl_smi.parent),  # which holds no compiler either
      "TF_ENABLE_ONEDNN_OPTS": "0",
    }
  )

  assert code == 1
  for topic, status, what, command in (
    ("TensorFlow", "fail", "ImportError: no TensorFlow today", "make setup"),
    ("Horovod", "fail", "built without TensorFlow", "pip install --no-build-isolation"),
    ("protobuf", "warn", "2.0.0 is not", "pip install 'protobuf"),
    (
      "Gaudi driver",
      "fail",
      "1.15.1-62f612b",
      "apt install habanalabs-dkms=1.14.0-493",
    ),
    ("C++ compiler", "warn", "none", "apt install g++"),
    ("oneDNN", "warn", "OPTS=0", "export TF_ENABLE_ONEDNN_OPTS=1"),
  ):
    assert rows[topic][0] == status
    assert what in rows[topic][1]
    assert command in rows[topic][1].partition("->")[2]
  assert "1.13.0.463" in rows["habana-tensorflow"][1]


@pytest.mark.slow
def test_limits_of_the_shell(tmp_path):
  code, rows = doctor(
    f"--model_dir={tmp_path}",
    limits=[(resource.RLIMIT_AS, 1_500_000_000), (resource.RLIMIT_FSIZE, 0)],
  )

  assert code == 1
  assert rows["memory"][0] == "fail"
  assert "1.5 GB allowed by `ulimit -v`" in rows["memory"][1]
  assert "-> ulimit -v unlimited" in rows["memory"][1]
  assert rows["--model_dir"][0] == "fail"
  assert "-> ulimit -f unlimited" in rows["--model_dir"][1]


def test_a_folder_of_somebody_else(open_folder):
  os.chmod(open_folder, 0o555)
  with as_another_user():
    (data,) = machine_checks.folder(folders.examine("--data_dir", str(open_folder)))
    (model,) = machine_checks.folder(
      folders.examine("--model_dir", f"{open_folder}/runs/new")
    )

  assert data.status == "warn"  # training only reads it
  assert model.status == "fail"
  for result in (data, model):
    assert f"{open_folder} cannot be written: Permission denied" in result.text
    assert f'sudo chown "$USER" {open_folder}' in result.advice


def test_a_folder_that_cannot_be_read(open_folder):
  os.chmod(open_folder, 0o300)
  with as_another_user():
    (data,) = machine_checks.folder(folders.examine("--data_dir", str(open_folder)))

  assert data.status == "fail"
  assert f"{open_folder} cannot be read: Permission denied" in data.text


def test_tensorflow_that_kills_its_process(shadow, monkeypatch):
  monkeypatch.setenv("PYTHONPATH", str(shadow))
  file = shadow / "tensorflow/__init__.py"
  file.write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")

  found, why = tensorflow_probe.result(tensorflow_probe.start())

  assert found is None
  assert why == "it ends its process with SIGILL"


@needs_root
def test_a_file_system_that_is_read_only(tmp_path):
  with mounted(tmp_path, "ro"):
    (result,) = machine_checks.folder(folders.examine("--model_dir", str(tmp_path)))

  assert result.status == "fail"
  assert "Read-only file system" in result.text
  assert "mount -o remount,rw" in result.advice


@needs_root
def test_a_disk_that_is_full(tmp_path):
  with mounted(tmp_path, "size=64k"):
    results = machine_checks.folder(folders.examine("--model_dir", str(tmp_path)))
    assert row(results, "--model_dir disk").status == "fail"
    (tmp_path / "file").write_bytes(bytes(64 * 1024))
    (full,) = machine_checks.folder(folders.examine("--model_dir", str(tmp_path)))

  assert full.status == "fail"
  assert "No space left on device" in full.text
  assert f"du -xhd1 {tmp_path}" in full.advice


def test_a_file_in_the_place_of_a_folder(tmp_path):
  (tmp_path / "file").touch()

  (result,) = machine_checks.folder(
    folders.examine("--model_dir", f"{tmp_path}/file/x")
  )

  assert result.status == "fail"
  assert f"mv {tmp_path}/file" in result.advice


@pytest.mark.parametrize(("ahead", "word"), [(-60, "ahead of"), (60, "behind")])
def test_a_file_server_whose_clock_differs(tmp_path, ahead, word):
  found = folders.examine("--model_dir", str(tmp_path), lambda: time.time() + ahead)
  clock = row(machine_checks.folder(found), "--model_dir clock")

  assert clock.status == "warn"
  assert f"60 s {word} this machine's clock" in clock.text
  assert "timedatectl" in clock.advice


def test_a_file_from_the_future(tmp_path):
  file = tmp_path / "ckpt-10.index"
  file.touch()
  os.utime(file, (time.time() + 3600,) * 2)

  found = folders.examine("--model_dir", str(tmp_path))
  clock = row(machine_checks.folder(found), "--model_dir clock")

  assert clock.status == "warn"
  assert re.search(r"ckpt-10.index was changed 3[56]\d\d s in the future", clock.text)
  assert f"touch {file}" in clock.advice


def test_a_good_folder_is_left_as_it_was(tmp_path):
  new = folders.examine("--model_dir", str(tmp_path / "runs" / "new"))
  old = folders.examine("--data_dir", str(tmp_path))

  assert {r.status for r in machine_checks.folder(old)} <= {"ok"}
  note, *others = machine_checks.folder(new)
  assert (note.status, f"it can be made in {tmp_path}" in note.text) == ("note", True)
  assert {r.status for r in others} == {"ok"}
  assert list(tmp_path.iterdir()) == []


def test_the_limit_of_a_container_counts(tmp_path):
  limit = tmp_path / "memory.max"
  limit.write_text("max\n")
  free = memory.limits(cgroup_files=(str(limit),))
  limit.write_text("1000000000\n")
  lowest = min(memory.limits(cgroup_files=(str(limit),)))

  assert all(found.source != "allowed by the container" for found in free)
  assert (lowest.gigabytes, lowest.source) == (1.0, "allowed by the container")
  assert "--memory" in lowest.advice
