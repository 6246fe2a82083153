"""Habana's real bridge, as far as it goes without a device."""

import difflib
import glob
import json

import helpers_hpu_stand_in
import pytest

from mnv2_hpu import compat
from mnv2_hpu.distribute import hpu_environment

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    compat.version("habana-tensorflow") is None,
    reason="habana-tensorflow has wheels for Python 3.10 only",
  ),
]
needs_no_device = pytest.mark.skipif(
  bool(glob.glob("/dev/hl*") or glob.glob("/dev/accel/accel*")),
  reason="this machine has an accelerator, perhaps a Gaudi",
)


@pytest.fixture(scope="module")
def bridge(programs):
  done = programs.run("helpers_bridge_facts")
  assert done.returncode == 0, done.output[-3000:]
  return json.loads(done.output.splitlines()[-1])


def test_the_pair_is_the_one_that_the_bridge_names(bridge):
  assert bridge["version"] == "1.14.0"
  assert bridge["tensorflow"] == [hpu_environment.TENSORFLOW]
  assert bridge["version"].startswith(hpu_environment.DRIVER)
  assert compat.version(hpu_environment.BRIDGE[0]) == hpu_environment.BRIDGE[1]


def test_the_strategy_is_called_as_it_is_defined(bridge):
  assert bridge["signature"] == [
    "self",
    "cluster_resolver",
    "communication_options",
    "config",
    "server",
  ]
  assert bridge["bases"][:2] == ["HPUStrategy", "CollectiveAllReduceStrategy"]
  assert bridge["extended_bases"][1:3] == [
    "CollectiveAllReduceExtended",
    "MirroredExtended",
  ]
  assert bridge["handshake"] == [True, True]


@needs_no_device
def test_the_bridges_own_failure_becomes_our_error(bridge):
  assert bridge["probe"]["available"] is False
  reason = bridge["probe"]["reason"]
  assert "found no Gaudi device here (AttributeError" in reason
  assert "one_device" in reason
  assert hpu_environment.FITS in reason


@needs_no_device
def test_the_environment_was_set_before_the_bridge_was_loaded(bridge):
  # The bridge sets HABANA_PROFILE while it is loaded, so it got as far as that.
  assert bridge["environment"]["HABANA_PROFILE"] == "profile_api_light"
  assert bridge["environment"]["TF_BF16_CONVERSION"] == "0"
  assert bridge["environment"]["TF_ENABLE_DYNAMIC_SHAPES"] == "false"


@needs_no_device
def test_a_bridge_loaded_too_late_is_refused(programs):
  done = programs.run("helpers_bridge_facts", "after_an_operation")

  reason = json.loads(done.output.splitlines()[-1])["probe"]["reason"]
  assert "TensorFlow has started its devices already" in reason


def test_the_stand_in_changes_the_device_alone():
  source = helpers_hpu_stand_in.strategy_path().read_text()

  differences = difflib.ndiff(
    source.splitlines(), helpers_hpu_stand_in.with_cpu(source).splitlines()
  )
  changed = [line for line in differences if line[0] in "-+"]
  removed = [line[1:].strip() for line in changed if line[0] == "-"]
  added = [line[1:].strip() for line in changed if line[0] == "+"]
  assert list(zip(removed, added, strict=True)) == list(
    helpers_hpu_stand_in.STRATEGY_LINES
  )
