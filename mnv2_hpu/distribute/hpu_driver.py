"""Gaudi's cards and their driver, as the kernel shows them. No TensorFlow."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from mnv2_hpu.distribute import hpu_facts
from mnv2_hpu.errors import UserError

# Where the kernel shows each card's driver: with and without the accel subsystem, which
# other vendors' cards use too.
CARD_FILES = (
  "/sys/class/accel/accel*/device/driver_ver",
  "/sys/class/habanalabs/hl*/driver_ver",
)
DRIVER_FILES = (*CARD_FILES, "/sys/module/habanalabs/version")


def _matching(patterns: Iterable[str]) -> list[Path]:
  found = (sorted(Path("/").glob(pattern.lstrip("/"))) for pattern in patterns)
  return [file for files in found for file in files]


def card_is_present(files: Iterable[str] = CARD_FILES) -> bool:
  """Returns whether the kernel shows a Gaudi card, in use or not.

  Args:
    files: patterns of the files that it shows for a card.
  """
  return bool(_matching(files))


def version(files: Iterable[str] = DRIVER_FILES) -> str | None:
  """Returns the driver's version, such as `1.14.0-9e8ecf8`; None where there is none.

  Args:
    files: patterns of the files that hold it. Where none exists, `hl-smi` is asked.
  """
  for file in _matching(files):
    return file.read_text().split("\n", 1)[0]
  hl_smi = shutil.which("hl-smi")
  if hl_smi is None:
    return None
  done = subprocess.run([hl_smi], capture_output=True, text=True, check=False)
  match = re.search(r"Driver Version:\s*(\S+)", done.stdout)
  return match[1] if match else None


def check(found: str | None) -> None:
  """Checks that the driver is the bridge's pair; an unknown one is left to the bridge.

  Raises:
    UserError: if it is of another release.
  """
  if found is None or re.match(rf"{re.escape(hpu_facts.DRIVER)}\b", found):
    return
  raise UserError(
    f"the Gaudi driver is {found}. {hpu_facts.FITS} Install that driver, or try this "
    "one all the same with --gin_params='mnv2_hpu.hpu.check_driver = False'."
  )
