"""Settings that TensorFlow reads when it is first imported, and the checkout's path."""

import json
import operator
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import helpers_programs
import pytest

pytest_plugins = ["helpers_test_limit"]

# Golden values were computed without oneDNN, whose rounding depends on the CPU.
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("MPLBACKEND", "Agg")
# One thread, here and in the programs that tests start: sums have one order, whatever
# else the machine does, and the workers of `pytest -n 2` leave each other a core.
os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
os.environ["TF_NUM_INTEROP_THREADS"] = "1"

# Files that take longest, longest first: two workers then end at about the same time.
# The first two have no deadline that the ranks of `test_frozen_rank.py`, which
# tools/test.sh runs at that time, could make them miss.
LONGEST = (
  "test_rank_proof.py",
  "test_quickstart.py",
  "test_multi_worker_mirrored.py",
  "test_backbone_swap.py",
  "test_faults.py",
  "test_quantization_runs.py",
  "test_segmentation_runs.py",
  "test_small_folders.py",
  "test_scene_quickstarts.py",
  "test_sidecar_runs.py",
  "test_horovod_driver.py",
  "test_mobilenet_v2_numbers.py",
  "test_gin_files.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Starts the longest files first; keeps the order of all others."""
  order = {name: place for place, name in enumerate(LONGEST)}
  items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))


@pytest.fixture(autouse=True)
def _seeded() -> None:
  """Draws the same random numbers in every run of a test, whatever ran before it."""
  random.seed(0)
  for name, seed in (("numpy", "random.seed"), ("tensorflow", "random.set_seed")):
    if name in sys.modules:
      operator.attrgetter(seed)(sys.modules[name])(0)


@pytest.fixture(scope="session")
def programs() -> Iterator[helpers_programs.Programs]:
  """A warm process from which programs are started."""
  started = helpers_programs.Programs()
  yield started
  started.close()


@pytest.fixture(scope="module")
def small_network() -> Iterator[None]:
  """Makes all networks small, for the tests of a file that are not about them."""
  import helpers_small_network

  from mnv2_hpu.modeling import block_specs

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(block_specs, "BLOCK_SPECS", helpers_small_network.SPECS)
    yield


@pytest.fixture(scope="session")
def checkout() -> Path:
  """The repository's folder; for tests marked `checkout`."""
  return Path(__file__).resolve().parents[1]


@pytest.fixture
def fidelity(record_property) -> Callable[..., None]:
  """Records what a test compared with the original, for `tools/fidelity.py`."""

  def record(part, original, ours, difference, allowed):
    row = {
      "part": part,
      "original": str(original),
      "ours": str(ours),
      "difference": difference
      if isinstance(difference, str)
      else f"{float(difference):.2g}",
      "allowed": str(allowed),
    }
    record_property("fidelity", json.dumps(row))

  return record
