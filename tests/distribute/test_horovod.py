"""What is refused before Horovod starts, and what it is told."""

import sys
import types

import helpers_mpirun
import pytest
import tensorflow as tf

from mnv2_hpu import driver_flags
from mnv2_hpu.distribute import horovod, horovod_ops, strategies
from mnv2_hpu.errors import UserError


def _set(monkeypatch, environment):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)


def test_without_horovod_the_error_says_how_to_get_it(monkeypatch):
  monkeypatch.setitem(sys.modules, "horovod", None)
  monkeypatch.setitem(sys.modules, "horovod.tensorflow", None)
  with pytest.raises(UserError, match="make setup-horovod"):
    strategies.get_distribution_strategy("horovod")


def test_a_library_of_another_tensorflow_is_named(monkeypatch):
  def fail(name):
    raise tf.errors.NotFoundError(None, None, "undefined symbol: _ZN10tensorflow")

  monkeypatch.setattr(horovod.importlib, "import_module", fail)
  with pytest.raises(UserError, match=r"undefined symbol.*make setup-horovod"):
    horovod.import_horovod()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"gradient_compression": "fp8"}, "'fp8'; it must be one of none, fp16, bf16"),
    ({"fusion_threshold_mb": 0}, "fusion_threshold_mb gives 0 bytes"),
    ({"cycle_time_ms": -1.0}, "cycle_time_ms is -1.0"),
  ],
)
def test_settings_without_a_meaning_are_refused(arguments, message):
  with pytest.raises(UserError, match=message):
    horovod.strategy(**arguments)


@pytest.mark.parametrize(
  ("environ", "threshold", "expected"),
  [
    ({}, None, 64 * 1024 * 1024),
    ({"HOROVOD_FUSION_THRESHOLD": "4096"}, None, 4096),  # horovodrun's option
    ({"HOROVOD_FUSION_THRESHOLD": "4096"}, 2, 2 * 1024 * 1024),
  ],
)
def test_bucketing_replaces_horovods_own_fusion(environ, threshold, expected):
  size, variables = horovod.settings(environ, threshold, None)
  assert size == expected
  assert horovod_ops.ReduceOptions(bucket_bytes=size)
  assert variables == {"HOROVOD_FUSION_THRESHOLD": "0"}


def _library(size, with_mpi):
  return types.SimpleNamespace(
    is_initialized=lambda: False,
    mpi_built=lambda: with_mpi,
    init=lambda: None,
    size=lambda: size,
  )


def test_processes_that_horovod_does_not_connect_are_refused(monkeypatch, tmp_path):
  _set(monkeypatch, helpers_mpirun.environment(0, 2, tmp_path))
  with pytest.raises(UserError, match=r"started 2 process.*connects 1"):
    horovod.init_horovod(_library(1, with_mpi=True), {})


def test_several_machines_without_mpi_are_told_both_ways_out(monkeypatch, tmp_path):
  _set(monkeypatch, helpers_mpirun.environment(0, 4, tmp_path))
  monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2")
  with pytest.raises(UserError, match=r"horovodrun -np 4.*libopenmpi-dev"):
    horovod.init_horovod(_library(4, with_mpi=False), {})


@pytest.mark.parametrize("name", ["off", "one_device", "mirrored", "tpu"])
def test_strategies_that_ignore_mpirun_are_refused(monkeypatch, tmp_path, name):
  _set(monkeypatch, helpers_mpirun.environment(1, 2, tmp_path))
  with pytest.raises(UserError, match=r"started 2 processes.*does not join them"):
    strategies.get_distribution_strategy(name)


def test_continuous_evaluation_is_for_one_process(monkeypatch, tmp_path):
  _set(monkeypatch, helpers_mpirun.environment(1, 2, tmp_path))
  monkeypatch.setattr(driver_flags, "driver_mode", lambda: "continuous_eval")
  with pytest.raises(UserError, match="--mode=continuous_eval is for one process"):
    strategies.get_distribution_strategy("horovod")
