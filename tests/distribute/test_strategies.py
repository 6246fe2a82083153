"""Names of strategies, through the function that Model Garden's driver calls."""

import json
import os

import gin
import pytest
import tensorflow as tf
from official.common import distribute_utils
from tensorflow.python.eager import context

import mnv2_hpu
from mnv2_hpu import compat, driver_flags
from mnv2_hpu.core import termination
from mnv2_hpu.distribute import habana, strategies
from mnv2_hpu.errors import UserError

mnv2_hpu.register()


@pytest.mark.parametrize(
  ("name", "strategy_class"),
  [
    ("one_device", tf.distribute.OneDeviceStrategy),
    ("mirrored", tf.distribute.MirroredStrategy),
    ("Mirrored", tf.distribute.MirroredStrategy),
  ],
)
def test_upstream_names_reach_model_garden(name, strategy_class):
  strategy = distribute_utils.get_distribution_strategy(name, num_gpus=0)
  assert isinstance(strategy, strategy_class)


def test_off_is_the_default_strategy():
  assert (
    distribute_utils.get_distribution_strategy("off") is tf.distribute.get_strategy()
  )


def test_unknown_name_is_an_error_that_lists_the_names():
  with pytest.raises(UserError, match=r"'hpuu' is unknown.*Did you mean 'hpu'"):
    distribute_utils.get_distribution_strategy("hpuu")


def test_upstream_errors_stay_upstreams():
  with pytest.raises(ValueError, match="num_gpus"):
    distribute_utils.get_distribution_strategy("mirrored", num_gpus=-1)


def test_hook_is_installed_once():
  before = distribute_utils.get_distribution_strategy
  mnv2_hpu.register()
  assert distribute_utils.get_distribution_strategy is before


def test_hpu_without_the_bridge_says_what_to_install(monkeypatch):
  monkeypatch.setattr(compat, "version", lambda name: None)
  with pytest.raises(UserError, match=r"habana-tensorflow 1.*TensorFlow 2\.15 on Py"):
    distribute_utils.get_distribution_strategy("hpu")


def test_hpu_with_another_tensorflow_says_which_fits(monkeypatch):
  monkeypatch.setattr(compat, "version", lambda name: "1.14.0.493")
  monkeypatch.setattr(tf, "__version__", "2.16.1")
  with pytest.raises(UserError, match=r"fits TensorFlow 2\.15\.0 only.*2\.16\.1"):
    habana.load()


@pytest.mark.parametrize(
  ("name", "num_gpus"),
  [("one_device", 1), ("mirrored", 2), ("off", 1), ("horovod", 1), ("hpu", 1)],
)
def test_gpus_that_are_not_there_are_refused(name, num_gpus, monkeypatch):
  monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
  with pytest.raises(UserError, match=rf"num_gpus is {num_gpus} .*sees 0 GPU"):
    distribute_utils.get_distribution_strategy(name, num_gpus=num_gpus)


def test_a_tpu_that_is_not_there_is_refused():
  with pytest.raises(UserError, match=r"'tpu', but no TPU can be used here"):
    distribute_utils.get_distribution_strategy("tpu", tpu_address=None)


@pytest.fixture
def two_ranks(monkeypatch):
  for name, value in (("SIZE", 2), ("RANK", 1), ("LOCAL_SIZE", 2), ("LOCAL_RANK", 1)):
    monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))
  monkeypatch.setenv("TF_CONFIG", "")  # restored after what the test sets


@pytest.mark.parametrize("name", ["off", "one_device", "mirrored"])
@pytest.mark.usefixtures("two_ranks")
def test_ranks_that_would_train_apart_are_refused(name):
  with pytest.raises(UserError, match=rf"started 2 processes.*'{name}' does not join"):
    distribute_utils.get_distribution_strategy(name, num_gpus=0)


@pytest.mark.parametrize("name", ["hpu", "horovod"])
@pytest.mark.usefixtures("two_ranks")
def test_ranks_under_model_gardens_own_trainer_are_refused(name, monkeypatch):
  monkeypatch.setattr(driver_flags, "driver_mode", lambda: "train")
  with pytest.raises(UserError, match=r"trainer_cls = @mnv2_hpu\.Trainer'"):
    distribute_utils.get_distribution_strategy(name)


@pytest.mark.usefixtures("two_ranks")
def test_the_ranks_of_mpi_find_each_other_by_tf_config():
  with gin.unlock_config():
    gin.bind_parameter("mnv2_hpu.cluster.port", 4000)
    gin.bind_parameter("mnv2_hpu.cluster.hosts", "node-a:2")
  try:
    strategies._set_tf_config()
  finally:
    gin.clear_config()

  assert json.loads(os.environ["TF_CONFIG"]) == {
    "cluster": {"worker": ["node-a:4000", "node-a:4001"]},
    "task": {"type": "worker", "index": 1},
  }


def test_the_layers_below_wait_longer_than_the_watchdog(monkeypatch):
  def configure(**kwargs):
    found.append(kwargs["heartbeat_timeout_in_ms"] / 1000)

  found = []
  monkeypatch.setattr(context.context(), "configure_coordination_service", configure)
  monkeypatch.setenv("HOROVOD_GLOO_TIMEOUT_SECONDS", "30")  # as horovodrun sets it
  strategies._raise_transport_timeouts()

  context.context().configure_coordination_service(service_type="standalone")
  found.append(int(os.environ["HOROVOD_GLOO_TIMEOUT_SECONDS"]))
  limit = termination.FaultSettings().missing_rank_seconds
  assert min(found) > limit + 30


def test_a_single_process_gets_no_tf_config(monkeypatch):
  monkeypatch.delenv("TF_CONFIG", raising=False)

  strategies._set_tf_config()

  assert "TF_CONFIG" not in os.environ


@pytest.mark.skipif(
  compat.version("habana-tensorflow") is None,
  reason="habana-tensorflow has wheels for Python 3.10 only",
)
def test_float16_on_hpu_is_refused():
  policy = compat.keras.mixed_precision
  before = policy.global_policy()
  policy.set_global_policy("mixed_float16")
  try:
    with pytest.raises(UserError, match=r"'float16', which Gaudi does not compute in"):
      distribute_utils.get_distribution_strategy("hpu")
  finally:
    policy.set_global_policy(before)
