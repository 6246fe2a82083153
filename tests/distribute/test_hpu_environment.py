"""What the bridge finds in its environment, and which precisions are refused."""

import importlib.util
import json
import pathlib
import re

import pytest

from mnv2_hpu import compat
from mnv2_hpu.distribute import hpu_environment
from mnv2_hpu.distribute.hpu_environment import Settings
from mnv2_hpu.errors import UserError

ALONE = {"TF_ENABLE_DYNAMIC_SHAPES": "false", "TF_BF16_CONVERSION": "0"}
SHIPPED = hpu_environment.SHIPPED_LISTS["mobilenet_v2"]


def srun(rank):
  return {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_PROCID": str(rank),
    "SLURM_LOCALID": str(rank % 8),
  }


@pytest.mark.parametrize(
  ("settings", "environ", "wanted"),
  [
    (Settings(), {}, ALONE),
    (Settings("basic"), {}, {**ALONE, "TF_BF16_CONVERSION": "basic"}),
    (Settings("mobilenet_v2"), {}, {**ALONE, "TF_BF16_CONVERSION": SHIPPED}),
    (
      Settings(),
      {"TF_ENABLE_DYNAMIC_SHAPES": "true"},
      {**ALONE, "TF_ENABLE_DYNAMIC_SHAPES": "true"},
    ),
    (
      Settings(op_placement_report="/tmp/graphs"),
      {},
      {**ALONE, "TF_DUMP_GRAPH_PREFIX": "/tmp/graphs", "HBN_TF_GRAPH_DUMP": "1"},
    ),
    # The bridge knows the ranks of Open MPI and Horovod only.
    (Settings(), srun(13), {**ALONE, "HLS_MODULE_ID": "5", "ID": "5"}),
    (
      Settings(),
      {**srun(9), "HABANA_VISIBLE_MODULES": "4,6"},
      {**ALONE, "HLS_MODULE_ID": "6", "ID": "6"},
    ),
    (
      Settings(),
      {**srun(9), "HLS_MODULE_ID": "7"},
      {**ALONE, "HLS_MODULE_ID": "7", "ID": "1"},
    ),
  ],
)
def test_variables(settings, environ, wanted):
  assert hpu_environment.variables(settings, environ) == wanted


def test_more_processes_than_devices_are_refused():
  environ = {**srun(2), "HABANA_VISIBLE_MODULES": "0,1"}

  with pytest.raises(UserError, match=r"names 2 devices, but this is process 2"):
    hpu_environment.variables(Settings(), environ)


@pytest.mark.parametrize(
  ("settings", "dtype", "environ"),
  [
    (Settings(), "float32", {}),
    (Settings(), "bfloat16", {"TF_BF16_CONVERSION": "0"}),
    (Settings("full"), "float32", {"TF_BF16_CONVERSION": "full"}),
  ],
)
def test_one_setting_may_decide_the_precision(settings, dtype, environ):
  hpu_environment.check_precision(settings, dtype, environ)


@pytest.mark.parametrize(
  ("settings", "dtype", "environ", "message"),
  [
    (Settings(), "float16", {}, "'float16'.*Use 'bfloat16'"),
    (Settings("full"), "bfloat16", {}, "two settings ask for bfloat16.*Use one"),
    (Settings(), "float32", {"TF_BF16_CONVERSION": "1"}, "='1'.*Unset the variable"),
    (Settings("basic"), "float32", {"TF_BF16_CONVERSION": "full"}, "='full'.*'basic'"),
  ],
)
def test_contradicting_precisions_are_refused(settings, dtype, environ, message):
  with pytest.raises(UserError, match=message):
    hpu_environment.check_precision(settings, dtype, environ)


def test_unknown_list_is_an_error_that_names_the_known():
  with pytest.raises(UserError, match=r"'mobilenetv2'.*Did you mean 'mobilenet_v2'"):
    Settings(bf16_conversion="mobilenetv2")


def _lists_in_the_bridge():
  """The lists `basic` and `full`, as the bridge's library holds them."""
  package = importlib.util.find_spec("habana_frameworks")
  folder = pathlib.Path(next(iter(package.submodule_search_locations)))
  library = next(folder.rglob("habana_device.so.2.15.0")).read_bytes()
  texts = re.findall(
    rb'\{\s*"allowlist".*?"convertible_exceptions".*?\]\s*\}', library, re.S
  )
  basic, full = sorted(map(json.loads, texts), key=lambda one: len(one["allowlist"]))
  return basic, full


@pytest.mark.skipif(
  compat.version("habana-tensorflow") is None,
  reason="habana-tensorflow has wheels for Python 3.10 only",
)
def test_the_shipped_list_is_between_habanas():
  basic, full = _lists_in_the_bridge()
  ours = json.loads(pathlib.Path(SHIPPED).read_text())

  assert ours.keys() == full.keys()
  convolutions = {op for op in basic["allowlist"] if "Conv" in op}
  assert convolutions < set(ours["allowlist"]) < set(full["allowlist"])
  for condition in ("conditional_list", "strict_conditional_list"):
    assert set(ours[condition]) < set(full[condition])
  # The loss and what updates the weights stay float32.
  update = {"L2Loss", "LogSoftmax", "Mul", "Rsqrt", "Softmax", "Sqrt", "Square"}
  assert update < set(full["allowlist"])
  assert not update & set(ours["allowlist"])


HL_SMI = """#!/bin/sh
cat <<'TABLE'
+-----------------------------------------------------------------------------+
| HL-SMI Version:                              hl-1.14.0-fw-48.0.1.0          |
| Driver Version:                                     1.14.0-9e8ecf8          |
|-------------------------------+----------------------+----------------------+
TABLE
"""


@pytest.fixture
def kernel(tmp_path):
  """A device as the kernel shows it; returns the pattern of its file."""
  file = tmp_path / "class/accel/accel0/device/driver_ver"
  file.parent.mkdir(parents=True)
  file.write_text("1.14.0-9e8ecf8\n")
  return str(tmp_path / "class/accel/accel*/device/driver_ver")


def test_the_kernels_file_is_read(kernel):
  assert hpu_environment.is_device_present([kernel])
  assert hpu_environment.driver_version([kernel]) == "1.14.0-9e8ecf8"


def test_an_accelerator_of_another_kind_is_no_device(tmp_path):
  (tmp_path / "class/accel/accel0/device").mkdir(parents=True)

  pattern = str(tmp_path / "class/accel/accel*/device/driver_ver")
  assert not hpu_environment.is_device_present([pattern])


def test_hl_smi_is_asked_where_the_kernel_shows_nothing(tmp_path, monkeypatch):
  tool = tmp_path / "hl-smi"
  tool.write_text(HL_SMI)
  tool.chmod(0o755)
  monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

  assert hpu_environment.driver_version([str(tmp_path / "none")]) == "1.14.0-9e8ecf8"


def test_without_a_driver_there_is_no_version(tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", str(tmp_path))

  assert hpu_environment.driver_version([str(tmp_path / "none")]) is None


@pytest.mark.parametrize("found", ["1.14.0-9e8ecf8", "1.14.1", "1.14", None])
def test_fitting_drivers_are_taken(found):
  hpu_environment.check_driver(found)


@pytest.mark.parametrize("found", ["1.13.0-ee32e42", "1.15.1-62f612b", "1.140.0"])
def test_others_are_refused_with_what_fits(found):
  with pytest.raises(UserError, match=rf"is {found}.*1\.14\.0\.493.*2\.15\.0.*1\.14,"):
    hpu_environment.check_driver(found)


@pytest.fixture
def sections(checkout):
  """Title -> lines of each section of docs/hpu.md."""
  parts = (checkout / "docs" / "hpu.md").read_text().split("\n## ")
  return {part.partition("\n")[0]: part.splitlines() for part in parts}


@pytest.mark.checkout
def test_the_page_lists_what_no_device_has_confirmed(sections):
  items = [line for line in sections["What no device has confirmed"] if line[:1] == "-"]

  assert items == [f"- {what}" for what in hpu_environment.UNCONFIRMED]


@pytest.mark.checkout
def test_the_page_names_the_versions_that_fit(sections):
  assert hpu_environment.FITS in " ".join(sections["# Gaudi (HPU)"])
