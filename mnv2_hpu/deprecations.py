"""Old names that work for one more release, each with a warning that names the new one.

One table a kind of name. A row is deleted in the release after the one it came with.
"""

import functools
import re
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import gin
from absl import logging

# Parameters of gin configurables, by the configurable's name without its module.
GIN_PARAMETERS = {
  "mobilenet_v2_classification.average_decay": "ema_decay",
  "mobilenet_v2_classification.average_batch_statistics": "ema_batch_statistics",
  "mobilenet_v2_classification.max_unreadable_records": "max_corrupt_records",
}

# Shipped gin files, by their path below the folder `gin`: what to read in their place.
GIN_FILES = {
  "cards/one_card.gin": ("imagenet.gin", "hardware/hpu.gin"),
  "cards/eight_cards.gin": ("imagenet.gin", "hardware/hpu.gin"),
  "cards/eight_cards_horovod.gin": ("imagenet.gin", "hardware/horovod.gin"),
  "cards/two_hosts.gin": ("imagenet.gin", "hardware/hpu_hosts.gin"),
  "recipes/garden.gin": ("recipes/model_garden.gin",),
  "recipes/paper_slim.gin": ("imagenet.gin",),
}

# Flags of the commands.
FLAGS = {"picture": "figure_path"}

# Fields of `task.train_data` and `task.validation_data`.
DATA_FIELDS = {
  "aug_crop": "preprocessing_options.crop",
  "aug_rand_hflip": "preprocessing_options.flip",
  "center_crop_fraction": "preprocessing_options.central_fraction",
  "color_distortion": "preprocessing_options.color_distortion",
  "crop_area_range": "preprocessing_options.crop_area_range",
  "crop_aspect_ratio_range": "preprocessing_options.crop_aspect_ratio_range",
  "crop_min_object_covered": "preprocessing_options.crop_min_object_covered",
  "fast_mode": "preprocessing_options.fast_mode",
  "reduced_decoding": "preprocessing_options.reduced_decoding",
  "max_unreadable_records": "max_corrupt_records",
}

# A field of `task` that only the records of earlier releases hold.
REMOVED_TASK_FIELD = "learning_rate_scaling"


@functools.cache
def warn(old: str, new: str) -> None:
  """Logs that a name is going to disappear; once for each name."""
  logging.warning(
    "%s is now %s. The old name works in this release only: please change it.", old, new
  )


def rename_flags(argv: Sequence[str], defined: Container[str]) -> list[str]:
  """Returns a command line in which old flags have their new names.

  Args:
    argv: Arguments, the program's name first.
    defined: Names of the flags that the program has. Others stay as they are.
  """
  renamed = []
  for argument in argv:
    match = re.fullmatch(r"--?(no)?(\w+?)(=.*)?", argument, re.DOTALL)
    new = FLAGS.get(match[2]) if match and match[2] not in defined else None
    if match and new in defined:
      warn(f"--{match[2]}", f"--{new}")
      argument = f"--{match[1] or ''}{new}{match[3] or ''}"
    renamed.append(argument)
  return renamed


def rename_data_fields(
  values: Mapping[str, Any], log: Callable[[str, str], None] = warn
) -> dict[str, Any]:
  """Returns values for `task.train_data` in which `DATA_FIELDS` have their new names.

  Values that hold `preprocessing_options` are of this release: Model Garden's fields
  among them are its own, and mean nothing here.
  """
  renamed = dict(values)
  if "preprocessing_options" in renamed:
    return renamed
  for old in renamed.keys() & DATA_FIELDS.keys():
    *nested, new = DATA_FIELDS[old].split(".")
    target = renamed.setdefault(nested[0], {}) if nested else renamed
    target[new] = renamed.pop(old)
    log(f"task.train_data.{old}", f"task.train_data.{DATA_FIELDS[old]}")
  return renamed


def upgrade_experiment(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the experiment of an earlier release's run, with today's fields."""
  task = dict(config["task"])
  if task.pop(REMOVED_TASK_FIELD, None) is None:
    return dict(config)
  for data in ("train_data", "validation_data"):
    task[data] = rename_data_fields(task[data], log=lambda old, new: None)
  return {**config, "task": task}


def install_gin_names() -> None:
  """Makes gin bind the parameters in `GIN_PARAMETERS` by either name. Idempotent."""
  bind = gin.config.bind_parameter
  if getattr(bind, "knows_old_names", False):
    return

  def bind_parameter(binding_key: Any, value: Any) -> None:
    bind(_with_new_name(binding_key), value)

  bind_parameter.knows_old_names = True  # type: ignore[attr-defined]
  gin.bind_parameter = gin.config.bind_parameter = bind_parameter


def _with_new_name(binding_key: Any) -> Any:
  """Returns gin's key, `(scope, selector, parameter)` or a string, by the new name."""
  if not isinstance(binding_key, str | tuple):
    return binding_key
  *selector, parameter = (
    binding_key.rsplit(".", 1) if isinstance(binding_key, str) else binding_key
  )
  old = f"{selector[-1].split('/')[-1].split('.')[-1]}.{parameter}"
  new = GIN_PARAMETERS.get(old)
  if new is None:
    return binding_key
  warn(f"gin: {old}", f"{old.split('.')[0]}.{new}")
  if isinstance(binding_key, str):
    return f"{selector[0]}.{new}"
  return (*selector, new)
