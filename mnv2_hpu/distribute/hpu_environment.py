"""The environment that Habana's bridge reads when it is loaded. No TensorFlow."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import gin

from mnv2_hpu.distribute import cluster
from mnv2_hpu.errors import UserError, did_you_mean

OFF = ("", "0", "false")
SHIPPED_LISTS = {
  # Convolutions, batch normalisation and activations; the loss and the weights' update
  # stay float32.
  "mobilenet_v2": str(Path(__file__).with_name("bf16_mobilenet_v2.json")),
  "basic": "basic",  # Habana's: convolutions and matrix products
  "full": "full",  # Habana's: everything that can be converted
}


@dataclasses.dataclass(frozen=True)
class Settings:
  """What gin binds as `mnv2_hpu.hpu.<field>`."""

  bf16_conversion: str = (
    ""  # a key of SHIPPED_LISTS, or a JSON file; "" converts nothing
  )
  op_placement_report: str = ""  # folder for the bridge's graphs with their devices
  check_driver: bool = True  # refuse a driver of another version

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
  """Checks that one setting decides the precision, and that a card has it.

  Args:
    settings: of this run.
    compute_dtype: that of Keras' global policy.
    environ: environment variables, usually `os.environ`.

  Raises:
    UserError: if float16 is asked for, or two settings decide.
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
  """Returns which card of this machine is this process's, by the bridge's number."""
  local_rank = cluster.local_rank(environ)
  visible = environ.get("HABANA_VISIBLE_MODULES")
  if not visible:
    return str(local_rank)
  modules = sorted(visible.split(","))
  if local_rank >= len(modules):
    raise UserError(
      f"HABANA_VISIBLE_MODULES={visible!r} names {len(modules)} cards, but this is "
      f"process {local_rank} of this machine, counted from 0. Start as many processes "
      "as there are cards."
    )
  return modules[local_rank]


def variables(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
  """Returns what must be set before the bridge is loaded; the user's values go first.

  Args:
    settings: of this run.
    environ: environment variables, usually `os.environ`.

  Raises:
    UserError: if there are more processes than cards.
  """
  wanted = {"TF_ENABLE_DYNAMIC_SHAPES": "false"}
  if settings.op_placement_report:
    wanted["TF_DUMP_GRAPH_PREFIX"] = settings.op_placement_report
    wanted["HBN_TF_GRAPH_DUMP"] = "1"
  if cluster.world_size(environ) > 1:
    wanted["HLS_MODULE_ID"] = wanted["ID"] = _module(environ)
  kept = {name: environ.get(name, value) for name, value in wanted.items()}
  return {**kept, "TF_BF16_CONVERSION": conversion(settings)}
