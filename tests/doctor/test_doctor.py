"""The doctor: each known trap, as a machine that has it."""

import dataclasses
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from mnv2_hpu.distribute import hpu_environment
from mnv2_hpu.doctor import checks, environment
from mnv2_hpu.doctor.environment import Environment, TensorFlowInfo
from mnv2_hpu.native import library

GOOD = Environment(
  python=(3, 10, 13),
  executable="python3.10",
  system="Linux x86_64",
  cores=2,
  cpu_flags=frozenset({"avx2", "avx512f", "avx512_vnni"}),
  onednn=None,
  free_gigabytes=50.0,
  compiler="g++",
  distributions={
    "absl-py": "1.4.0",
    "gin-config": "0.5.0",
    "h5py": "3.11.0",
    "habana-tensorflow": "1.14.0.493",
    "horovod": "0.28.1",
    "keras": "2.15.0",
    "matplotlib": "3.10.0",
    "numpy": "1.26.4",
    "packaging": "24.0",
    "pillow": "11.0.0",
    "protobuf": "3.20.3",
    "pycocotools": "2.0.11",
    "pyyaml": "6.0.3",
    "safetensors": "0.5.0",
    "scikit-learn": "1.5.0",
    "standard-imghdr": "3.13.0",
    "tensorboard": "2.15.2",
    "tensorflow-datasets": "4.9.7",
    "tensorflow-metadata": "1.15.0",
    "tf-models-official": "2.15.0",
    "tqdm": "4.66.0",
  },
  requirements=environment.requirements("3.10"),
  horovod_has_tensorflow=True,
  driver="1.14.0-9e8ecf8",
  tensorflow=TensorFlowInfo("2.15.0", False, ("CPU",), "keras", True),
  tensorflow_error="",
)


NEWEST = dataclasses.replace(
  GOOD,
  python=(3, 12, 1),
  distributions={
    **{k: v for k, v in GOOD.distributions.items() if k != "habana-tensorflow"},
    "numpy": "2.3.5",
    "protobuf": "7.36.2",
    "tensorboard": "2.20.0",
    "tensorflow-datasets": "4.9.10",
    "tensorflow-metadata": "1.21.0",
    "tf-keras": "2.20.1",
    "tf-models-official": "2.20.0",
  },
  requirements=environment.requirements("3.12"),
  tensorflow=TensorFlowInfo("2.20.0", False, ("CPU",), "tf-keras"),
)


def having(**changes):
  """GOOD with changes; `distributions` are merged, None removes one."""
  merged = {**GOOD.distributions, **changes.pop("distributions", {})}
  kept = {name: version for name, version in merged.items() if version}
  return dataclasses.replace(GOOD, distributions=kept, **changes)


def tensorflow(**changes):
  return dataclasses.replace(GOOD.tensorflow, **changes)


def examine(env):
  """Returns topic -> result of those that are neither ok nor note."""
  results = checks.run(env)
  return {r.topic: r for r in results if r.status in ("warn", "fail")}


def test_nothing_is_wrong_with_the_locked_sets():
  assert examine(GOOD) == {}
  assert examine(NEWEST) == {}


def test_without_gaudi_and_horovod_nothing_is_wrong():
  absent = {"habana-tensorflow": None, "horovod": None}
  env = having(distributions=absent, horovod_has_tensorflow=False, driver=None)
  assert examine(env) == {}


@pytest.mark.parametrize(
  ("env", "topic", "status", "text"),
  [
    (having(python=(3, 12, 1)), "Python", "fail", "Use Python 3.10, 3.11."),
    (
      dataclasses.replace(NEWEST, python=(3, 10, 13)),
      "Python",
      "fail",
      "Use Python 3.11, 3.12, 3.13.",
    ),
    (
      dataclasses.replace(
        NEWEST, distributions={**NEWEST.distributions, "numpy": "2.4.6"}
      ),
      "numpy",
      "warn",
      "<2.4",
    ),
    (having(system="Darwin arm64"), "system", "warn", "Linux x86_64"),
    (having(cpu_flags=frozenset({"avx2"})), "oneDNN", "warn", "OPTS=1"),
    (having(onednn="0"), "oneDNN", "warn", "TF_ENABLE_ONEDNN_OPTS=0"),
    (
      having(tensorflow=None, tensorflow_error="ImportError: runtime_version"),
      "TensorFlow",
      "fail",
      "runtime_version",
    ),
    (
      having(distributions={"tf-models-official": "2.20.0"}),
      "TensorFlow",
      "fail",
      "does not fit tf-models-official 2.20.0",
    ),
    (having(distributions={"keras": "3.1.0"}), "Keras", "fail", "keras 3.1.0"),
    (having(distributions={"gin-config": None}), "gin-config", "fail", "make setup"),
    (having(distributions={"protobuf": "5.29.1"}), "protobuf", "warn", ">=3.20,<5"),
    (
      having(distributions={"tensorflow-metadata": "1.16.1"}),
      "tensorflow-metadata",
      "warn",
      "<1.16",
    ),
    (
      having(distributions={"habana-tensorflow": "1.13.0.463"}),
      "habana-tensorflow",
      "warn",
      "habana-tensorflow==1.14.0.493",
    ),
    (
      having(tensorflow=tensorflow(version="2.15.1")),
      "habana-tensorflow",
      "fail",
      "accepts TensorFlow 2.15.0 only",
    ),
    (
      having(tensorflow=tensorflow(cuda_build=True)),
      "habana-tensorflow",
      "fail",
      "tensorflow-cpu==2.15.0",
    ),
    (
      having(horovod_has_tensorflow=False),
      "Horovod",
      "fail",
      "HOROVOD_WITH_TENSORFLOW=1",
    ),
    (
      having(driver="1.15.1-62f612b"),
      "Gaudi driver",
      "fail",
      "habana-tensorflow==1.14.0.493",
    ),
    (having(compiler=None), "C++ compiler", "warn", "g++"),
    (having(free_gigabytes=2.0), "disk", "warn", "2 GB free"),
    (having(free_gigabytes=0.4), "disk", "fail", "0 GB free"),
  ],
)
def test_what_does_not_fit_is_said(env, topic, status, text):
  finding = examine(env)[topic]

  assert finding.status == status
  assert text in f"{finding.text} {finding.advice}"
  assert finding.advice


@pytest.mark.parametrize(
  ("is_built", "status", "advice"),
  [(True, "ok", ""), (False, "note", "make setup-native")],
)
def test_what_is_only_slower_is_a_note(is_built, status, advice):
  env = having(tensorflow=tensorflow(has_native_input=is_built))
  (found,) = (r for r in checks.run(env) if r.topic == "input in C++")
  assert (found.status, found.advice) == (status, advice)


def test_only_what_is_broken_is_reported():
  assert list(examine(having(onednn="0"))) == ["oneDNN"]


def test_environment_of_this_machine():
  env = environment.collect({"TF_ENABLE_ONEDNN_OPTS": "0"})

  import tensorflow as tf

  assert env.tensorflow.version == tf.__version__
  assert env.tensorflow.devices == ("CPU",)
  assert env.tensorflow.has_native_input == (library.load() is not None)
  assert env.python == sys.version_info[:3]
  assert env.version("tf-models-official") == metadata.version("tf-models-official")
  assert env.onednn == "0"


def test_report_puts_advice_below_its_line():
  results = [
    checks.CheckResult("ok", "a", "fine"),
    checks.CheckResult("fail", "b", "broken", "fix it"),
  ]

  lines = checks.report(results).splitlines()

  assert [line.split()[0] for line in lines[:3]] == ["ok", "fail", "->"]
  assert lines[2].endswith("-> fix it")
  assert lines[-1] == "1 ok, 0 warnings, 1 failure"


def test_what_no_device_has_confirmed_is_listed():
  lines = checks.report([]).splitlines()

  assert lines[0] == "No Gaudi device has confirmed yet:"
  assert lines[1:-1] == [f"  - {what}" for what in hpu_environment.UNCONFIRMED]
  assert any("HCCL" in line for line in lines)


@pytest.mark.slow
@pytest.mark.skipif(
  Path("/dev/accel").exists() or Path("/dev/hl0").exists(),
  reason="a device may be here",
)
def test_probe_without_a_device_fails_and_says_why():
  done = subprocess.run(
    [sys.executable, "-m", "mnv2_hpu.cli.doctor", "--probe_hpu"],
    capture_output=True,
    text=True,
  )

  assert done.returncode == 1
  assert "Traceback" not in done.stderr
  failed = [line for line in done.stdout.splitlines() if line.startswith("fail")]
  assert len(failed) == 1
  assert failed[0].split()[1:3] == ["Gaudi", "probe"]
  assert "habana" in failed[0].lower()
