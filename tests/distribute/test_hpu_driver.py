"""The driver's version, from the kernel's files or from hl-smi's table."""

import pytest

from mnv2_hpu.distribute import hpu_driver
from mnv2_hpu.errors import UserError

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
  """A card as the kernel shows it; returns the pattern of its file."""
  file = tmp_path / "class/accel/accel0/device/driver_ver"
  file.parent.mkdir(parents=True)
  file.write_text("1.14.0-9e8ecf8\n")
  return str(tmp_path / "class/accel/accel*/device/driver_ver")


def test_the_kernels_file_is_read(kernel):
  assert hpu_driver.card_is_present([kernel])
  assert hpu_driver.version([kernel]) == "1.14.0-9e8ecf8"


def test_an_accelerator_of_another_kind_is_no_card(tmp_path):
  (tmp_path / "class/accel/accel0/device").mkdir(parents=True)

  pattern = str(tmp_path / "class/accel/accel*/device/driver_ver")
  assert not hpu_driver.card_is_present([pattern])


def test_hl_smi_is_asked_where_the_kernel_shows_nothing(tmp_path, monkeypatch):
  tool = tmp_path / "hl-smi"
  tool.write_text(HL_SMI)
  tool.chmod(0o755)
  monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

  assert hpu_driver.version([str(tmp_path / "none")]) == "1.14.0-9e8ecf8"


def test_without_a_driver_there_is_no_version(tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", str(tmp_path))

  assert hpu_driver.version([str(tmp_path / "none")]) is None


@pytest.mark.parametrize("found", ["1.14.0-9e8ecf8", "1.14.1", "1.14", None])
def test_fitting_drivers_are_taken(found):
  hpu_driver.check(found)


@pytest.mark.parametrize("found", ["1.13.0-ee32e42", "1.15.1-62f612b", "1.140.0"])
def test_others_are_refused_with_what_fits(found):
  with pytest.raises(UserError, match=rf"is {found}.*1\.14\.0\.493.*2\.15\.0.*1\.14,"):
    hpu_driver.check(found)
