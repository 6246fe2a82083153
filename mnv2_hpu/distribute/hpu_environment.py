"""Gaudi's versions, devices, driver and environment variables. No TensorFlow.

What Habana's bridge reads when it is loaded is decided here. `habana` loads it.
"""

import dataclasses
import glob
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import gin

from mnv2_hpu import cluster
from mnv2_hpu.errors import UserError, did_you_mean

# The last bridge released for TensorFlow, and the only version of it that it accepts.
BRIDGE = ("habana-tensorflow", "1.14.0.493")
TENSORFLOW = "2.15.0"
# The first two numbers of the driver's version must be those of the bridge.
DRIVER = "1.14"

FITS = (
  f"{'=='.join(BRIDGE)} fits tensorflow-cpu {TENSORFLOW} (not the CUDA build, which it "
  f"aborts) on Python 3.10, and the driver of SynapseAI {DRIVER}, the last with "
  "TensorFlow."
)

# Never run on a device. The doctor prints it, and docs/hpu.md holds the same list.
UNCONFIRMED = (
  "that the bridge finds a device after the environment was set as here",
  "training and evaluation on `HPU:0`: speed, memory, losses and accuracy",
  "that `OneDeviceStrategy` serves one device (Habana names its own strategy)",
  "`HPUStrategy` over HCCL: its speed, and that sums are equal on all ranks",
  "bfloat16 by Keras' policy, and by the conversion pass with the list shipped here",
  "which operations of the training step the bridge leaves to the CPU",
  "that a driver of another version fails; it is refused because Habana pairs them",
  "Horovod on a device (`habana-horovod` in place of `horovod`)",
  "that `HLS_MODULE_ID` chooses the device under srun, MPICH and TF_CONFIG",
  "resuming on a device bit for bit",
)

OFF = ("", "0", "false")
SHIPPED_LISTS = {
  # Convolutions, batch normalisation and activations; the loss and the weights' update
  # stay float32.
  "mobilenet_v2": str(Path(__file__).with_name("bf16_mobilenet_v2.json")),
  "basic": "basic",  # Habana's: convolutions and matrix products
  "full": "full",  # Habana's: everything that can be converted
}

# Where the kernel shows a device's driver: with and without the accel subsystem, which
# other vendors' devices use too.
DEVICE_FILES = (
  "/sys/class/accel/accel*/device/driver_ver",
  "/sys/class/habanalabs/hl*/driver_ver",
)
DRIVER_FILES = (*DEVICE_FILES, "/sys/module/habanalabs/version")


@dataclasses.dataclass(frozen=True)
class Settings:
  """What gin binds as `mnv2_hpu.hpu.<field>`.

  Attributes:
    bf16_conversion: Key of `SHIPPED_LISTS`, or a JSON file; "" converts nothing.
    op_placement_report: Folder for the bridge's graphs with their devices.
    check_driver: Whether a driver of another version is refused.
  """

  bf16_conversion: str = ""
  op_placement_report: str = ""
  check_driver: bool = True

  def __post_init__(self) -> None:
    """Checks that the list of operations exists."""
    name = self.bf16_conversion
    if name and name not in SHIPPED_LISTS and not Path(name).is_file():
      raise UserError(
        f"mnv2_hpu.hpu.bf16_conversion: {name!r} is neither a file nor a list that is "
        f"shipped. {did_you_mean(name, SHIPPED_LISTS)}"
      )


configured = gin.external_configurable(Settings, "hpu", module="mnv2_hpu")


def conversion(settings: Settings) -> str:
  """Returns the value of TF_BF16_CONVERSION."""
  return SHIPPED_LISTS.get(settings.bf16_conversion, settings.bf16_conversion) or "0"


def check_precision(
  settings: Settings, compute_dtype: str, environ: Mapping[str, str]
) -> None:
  """Checks that one setting decides the precision, and that a device has it.

  Args:
    settings: Settings of this run.
    compute_dtype: Compute dtype of Keras' global policy.
    environ: Environment variables, usually `os.environ`.

  Raises:
    UserError: If float16 is requested, or two settings decide.
  """
  if compute_dtype == "float16":
    raise UserError(
      "runtime.mixed_precision_dtype is 'float16', which Gaudi does not compute in. "
      "Use 'bfloat16' (no loss scaling is needed) or 'float32'."
    )
  wanted = conversion(settings)
  if compute_dtype == "bfloat16" and wanted != "0":
    raise UserError(
      "two settings ask for bfloat16: Keras' policy (mobilenet_v2_classification."
      "compute_dtype or runtime.mixed_precision_dtype = 'bfloat16') and Habana's "
      f"conversion (mnv2_hpu.hpu.bf16_conversion = {settings.bf16_conversion!r}). "
      "Use one: set the former to 'float32', or the latter to ''."
    )
  found = environ.get("TF_BF16_CONVERSION", "")
  if found.lower() not in (*OFF, wanted.lower()):
    raise UserError(
      f"TF_BF16_CONVERSION={found!r} is set in the environment, but this run's setting "
      f"is mnv2_hpu.hpu.bf16_conversion = {settings.bf16_conversion!r}. Unset the "
      "variable; the setting takes 'mobilenet_v2', 'basic', 'full' or a JSON file."
    )


def _module(environ: Mapping[str, str]) -> str:
  """Returns which device of this machine is this process's, by the bridge's number."""
  local_rank = cluster.local_rank(environ)
  visible = environ.get("HABANA_VISIBLE_MODULES")
  if not visible:
    return str(local_rank)
  modules = sorted(visible.split(","))
  if local_rank >= len(modules):
    raise UserError(
      f"HABANA_VISIBLE_MODULES={visible!r} names {len(modules)} devices, but this is "
      f"process {local_rank} of this machine, counted from 0. Start as many processes "
      "as there are devices."
    )
  return modules[local_rank]


def variables(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
  """Returns what must be set before the bridge is loaded; the user's values go first.

  Args:
    settings: Settings of this run.
    environ: Environment variables, usually `os.environ`.

  Raises:
    UserError: If there are more processes than devices.
  """
  wanted = {"TF_ENABLE_DYNAMIC_SHAPES": "false"}
  if settings.op_placement_report:
    wanted["TF_DUMP_GRAPH_PREFIX"] = settings.op_placement_report
    wanted["HBN_TF_GRAPH_DUMP"] = "1"
  if cluster.world_size(environ) > 1:
    wanted["HLS_MODULE_ID"] = wanted["ID"] = _module(environ)
  kept = {name: environ.get(name, value) for name, value in wanted.items()}
  return {**kept, "TF_BF16_CONVERSION": conversion(settings)}


# ---- Devices and their driver ----


def _matching(patterns: Iterable[str]) -> list[str]:
  return [file for pattern in patterns for file in sorted(glob.glob(pattern))]


def is_device_present(files: Iterable[str] = DEVICE_FILES) -> bool:
  """Returns whether the kernel shows a Gaudi device, in use or not.

  Args:
    files: Patterns of the files that it shows for a device.
  """
  return bool(_matching(files))


def driver_version(files: Iterable[str] = DRIVER_FILES) -> str | None:
  """Returns the driver's version, such as `1.14.0-9e8ecf8`; None where there is none.

  Args:
    files: Patterns of the files that hold it. Where none exists, `hl-smi` is run.
  """
  for file in _matching(files):
    return Path(file).read_text().split("\n", 1)[0]
  hl_smi = shutil.which("hl-smi")
  if hl_smi is None:
    return None
  done = subprocess.run([hl_smi], capture_output=True, text=True, check=False)
  match = re.search(r"Driver Version:\s*(\S+)", done.stdout)
  return match[1] if match else None


def check_driver(found: str | None) -> None:
  """Checks that the driver is the bridge's pair; an unknown one is left to the bridge.

  Raises:
    UserError: If it is of another release.
  """
  if found is None or re.match(rf"{re.escape(DRIVER)}\b", found):
    return
  raise UserError(
    f"the Gaudi driver is {found}. {FITS} Install that driver, or try this "
    "one all the same with --gin_params='mnv2_hpu.hpu.check_driver = False'."
  )
