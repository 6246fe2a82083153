"""Values that no experiment can have: refused before anything is built on them.

Model Garden's configs take any value for any field, so that `train_steps=2.5` trains
for ever and `1e3`, which YAML reads as text, fails far from where it was written.
"""

import math
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from official.core import config_definitions as cfg
from official.core import train_utils
from official.modeling.hyperparams import base_config

from mnv2_hpu import driver_flags
from mnv2_hpu.data_service import address
from mnv2_hpu.dataloaders.input_fields import DataFields
from mnv2_hpu.errors import UserError

_POSITIVE = frozenset(
  {
    "autotune_ram_mib",
    "block_length",
    "checkpoint_interval",
    "continuous_eval_timeout",
    "cycle_length",
    "head_channels",
    "max_to_keep",
    "num_classes",
    "shuffle_buffer_size",
    "steps_per_loop",
    "summary_interval",
    "train_steps",
    "validation_interval",
  }
)
# What may be negative in `trainer` and in the data: there it turns something off.
_SIGNED = frozenset({"validation_steps", "recovery_max_trials", "prefetch_buffer_size"})
_NON_NEGATIVE = (
  "trainer.",
  "task.train_data.",
  "task.validation_data.",
  "task.losses.",
)
# (smallest, largest, what to say) of numbers that mean nothing outside.
_RANGES = {
  "average_decay": (0, 1, "0 to 1"),
  "backbone_learning_rate_multiplier": (0, math.inf, "at least 0"),
  "central_fraction": (1e-3, 1, "0.001 to 1"),
  "dropout_rate": (0, 1 - 1e-6, "0 up to, not including, 1"),
  "hard_pixel_share": (1e-6, 1, "more than 0, at most 1"),
  "kernel_initializer_stddev": (1e-12, math.inf, "more than 0"),
  "label_smoothing": (0, 1, "0 to 1"),
  "norm_epsilon": (1e-12, math.inf, "more than 0"),
  "norm_momentum": (0, 1, "0 to 1"),
  "width_multiplier": (1e-12, math.inf, "more than 0"),
}
_MAX_INT = 2**31 - 1  # TensorFlow counts many things in 32 bits
# Schedules compute with their numbers of steps, which epochs need not make whole.
_FRACTIONS_OF_STEPS = "trainer.optimizer_config."

_DTYPES = ("float32", "bfloat16", "float16")
_LISTS = (list, tuple, Sequence)
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def check(config: cfg.ExperimentConfig, train: bool) -> None:
  """Checks the type and the range of every number in a resolved experiment.

  Args:
    config: Experiment after all overrides.
    train: Whether it will be trained, and so needs a number of steps.

  Raises:
    UserError: Naming the field, its value and what is allowed.
  """
  for path, hint, default, value in _fields(config, ""):
    if value is None or (path == "trainer.train_steps" and not train):
      continue
    allowed = _allowed_type(path, hint, default, value)
    if path.endswith(".input_size") and not allowed and len(value) not in (0, 3):
      allowed = "a list of height, width and channels"
    if allowed is None and _is(float, value):
      allowed = _allowed_range(path, default, value)
    if allowed is not None:
      raise UserError(
        f"{path} is {value!r}; it must be {allowed}. Change it where it was set: in "
        "--params_override, --config_file or gin."
      )
  for name in ("train_data", "validation_data"):
    data = getattr(config.task, name)
    if isinstance(data, DataFields):
      _check_data_service(f"task.{name}", data)
  dtype = config.runtime.mixed_precision_dtype
  if dtype not in (None, *_DTYPES):
    raise UserError(
      f"runtime.mixed_precision_dtype is {dtype!r}; it must be {' or '.join(_DTYPES)}."
    )
  trainer = config.trainer
  if trainer.validation_steps == 0:
    raise UserError("trainer.validation_steps is 0; it must be at least 1, or -1: all.")
  if trainer.summary_interval % trainer.steps_per_loop:
    raise UserError(
      f"trainer.summary_interval is {trainer.summary_interval}; it must be a multiple "
      f"of trainer.steps_per_loop, which is {trainer.steps_per_loop}."
    )


def _check_data_service(path: str, data: Any) -> None:
  """Refuses what an input read by a data service cannot promise."""
  # Theirs need two fields, serve evaluation too, and give each worker the whole set.
  for name in ("enable_tf_data_service", "tf_data_service_address"):
    if value := getattr(data, name):
      raise UserError(
        f"{path}.{name} is {value!r}, which this task does not use, nor the flag "
        "--tf_data_service that sets it. Set task.train_data.service_address."
      )
  if not (data.service_address and data.is_training):
    return
  address.parse(data.service_address, f"{path}.service_address")
  for name in ("deterministic", "cache"):
    if getattr(data, name) not in (False, None):
      raise UserError(
        f"{path}.{name} is True, and {path}.service_address is "
        f"{data.service_address!r}: what comes from a data service has no fixed order "
        "and is not kept, so that neither two runs nor a resumed one are equal. Set "
        f"{path}.{name}=false with it, or read without a service."
      )


def check_driver() -> None:
  """Checks the experiment that the flags of a running driver describe.

  Called when the driver builds its strategy: before it builds anything.

  Raises:
    UserError: As `check` does.
  """
  flags = driver_flags.flag_values()
  if flags is not None:
    config = train_utils.parse_configuration(flags, print_return=False)
    check(config, train="train" in (driver_flags.driver_mode() or ""))


def _fields(config: Any, prefix: str) -> Iterator[tuple[str, Any, Any, Any]]:
  """Yields (path, type hint, default, value) of each field that holds no config."""
  hints = typing.get_type_hints(type(config))
  for name, field in type(config).__dataclass_fields__.items():
    path, value = f"{prefix}{name}", getattr(config, name)
    if isinstance(value, base_config.Config):
      yield from _fields(value, f"{path}.")
    else:
      yield path, hints[name], field.default, value


def _allowed_type(path: str, hint: Any, default: Any, value: Any) -> str | None:
  """Returns what type a field must have, None where its value has it."""
  kinds = {kind for kind in _union(hint) if kind is not type(None)}
  if all(isinstance(k, type) and issubclass(k, base_config.Config) for k in kinds):
    return "a group of fields"
  if kinds <= _NAMES.keys():
    if path.startswith(_FRACTIONS_OF_STEPS) and int in kinds:
      kinds.add(float)
    # Some defaults of Model Garden's contradict their own annotation.
    if type(value) is type(default) or any(_is(kind, value) for kind in kinds):
      return None
    return " or ".join(_NAMES[kind] for kind in _NAMES if kind in kinds)
  numbers = [kind for kind in typing.get_args(hint) if kind in (int, float)]
  is_list = isinstance(value, Sequence) and not isinstance(value, str)
  others = [kind for kind in _NAMES if kind in kinds]
  takes_list = any(typing.get_origin(kind) in _LISTS for kind in kinds)
  if takes_list and not is_list and not any(_is(kind, value) for kind in others):
    return " or ".join(["a list", *(_NAMES[kind] for kind in others)])
  if (
    numbers
    and is_list
    and not all(item is None or _is(numbers[0], item) for item in value)
  ):
    return f"a list, each of it {_NAMES[numbers[0]]}"
  return None


def _allowed_range(path: str, default: Any, value: Any) -> str | None:
  """Returns the range in which a number must be, None where it is."""
  name = path.rpartition(".")[2]
  if value == default and name != "train_steps":
    return None
  if name in _POSITIVE and value < 1:
    return "a whole number of at least 1"
  if math.isnan(value) or (math.isinf(value) and name != "loss_upper_bound"):
    return "finite"
  is_count = isinstance(value, int) and name != "seed"
  largest_count = _MAX_INT if is_count else math.inf
  smallest, largest, words = _RANGES.get(
    name, (-math.inf, largest_count, f"at most {_MAX_INT:,}")
  )
  if not smallest <= value <= largest:
    return words
  is_signed = name in _SIGNED or (_is(float, default) and default < 0)
  if path.startswith(_NON_NEGATIVE) and value < 0 and not is_signed:
    return "at least 0"
  return None


def _union(hint: Any) -> tuple[Any, ...]:
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return typing.get_args(hint)
  return (hint,)


def _is(kind: type, value: Any) -> bool:
  if kind is float:
    return isinstance(value, int | float) and not isinstance(value, bool)
  return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
