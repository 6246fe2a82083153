"""The flags of Habana's slim launcher, and what each means here."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from absl import flags

from mnv2_hpu.errors import UserError

DEVICES = ("hpu", "gpu", "cpu")
_RECIPE = "mobilenet_v2_classification"


class RecipeFlag(NamedTuple):
  """A flag that is a field of the recipe under another name."""

  define: Callable[..., Any]
  field: str
  help: str


RECIPE_FLAGS = {
  "batch_size": RecipeFlag(flags.DEFINE_integer, "batch_size", "Images a worker."),
  "train_image_size": RecipeFlag(
    flags.DEFINE_integer, "image_size", "Height and width in pixels."
  ),
  "learning_rate": RecipeFlag(
    flags.DEFINE_float, "learning_rate", "For one worker; several scale it."
  ),
  "learning_rate_decay_factor": RecipeFlag(
    flags.DEFINE_float, "decay_rate", "Factor of each decay."
  ),
  "num_epochs_per_decay": RecipeFlag(
    flags.DEFINE_float, "decay_epochs", "Epochs between two decays."
  ),
  "warmup_epochs": RecipeFlag(
    flags.DEFINE_float, "warmup_epochs", "Epochs of linear warm-up."
  ),
  "weight_decay": RecipeFlag(flags.DEFINE_float, "weight_decay", "Of the kernels."),
  "label_smoothing": RecipeFlag(
    flags.DEFINE_float, "label_smoothing", "Share spread over all classes."
  ),
  "rmsprop_decay": RecipeFlag(flags.DEFINE_float, "rho", "Of RMSProp's mean square."),
  "rmsprop_momentum": RecipeFlag(flags.DEFINE_float, "momentum", "Of RMSProp."),
  "opt_epsilon": RecipeFlag(flags.DEFINE_float, "epsilon", "Of RMSProp."),
  "moving_average_decay": RecipeFlag(
    flags.DEFINE_float, "ema_decay", "Decay of the EMA weights."
  ),
  "log_every_n_steps": RecipeFlag(
    flags.DEFINE_integer, "log_every_steps", "Steps between two lines."
  ),
  "checkpoint_path": RecipeFlag(
    flags.DEFINE_string, "init_checkpoint", "Where training starts from."
  ),
}

# flag -> field of the experiment
OVERRIDE_FLAGS = {
  "max_number_of_steps": ("trainer.train_steps", "Steps, in place of epochs."),
  "max_num_batches": ("trainer.validation_steps", "Evaluate so many batches only."),
}

PLACE_FLAGS = {
  "dtype": (flags.DEFINE_string, "bf16 or fp32."),
  "bf16_config_path": (
    flags.DEFINE_string,
    "With --dtype=bf16 on hpu: Habana's conversion by this list, not Keras' policy.",
  ),
  "num_clones": (flags.DEFINE_integer, "GPUs of this process."),
  "clone_on_cpu": (flags.DEFINE_bool, "Compute on the CPU."),
  "use_horovod": (flags.DEFINE_bool, "Join the workers by Horovod."),
  "num_workers": (flags.DEFINE_integer, "Workers; must be what the launcher started."),
  "worker_replicas": (flags.DEFINE_integer, "The same as --num_workers."),
  "task": (flags.DEFINE_integer, "This worker; must be what the launcher said."),
}


class Fixed(NamedTuple):
  """A flag that has one value here, and what to use in place of others."""

  define: Callable[..., Any]
  value: Any
  instead: str


FIXED_FLAGS = {
  "num_ps_tasks": Fixed(
    flags.DEFINE_integer,
    0,
    "Workers keep equal copies of the variables; there are no parameter servers.",
  ),
  "master": Fixed(
    flags.DEFINE_string, "", "Start the workers with mpirun or horovodrun."
  ),
  "model_name": Fixed(
    flags.DEFINE_string,
    "mobilenet_v2",
    "For other networks: mnv2-train --experiment=…, see docs/backbone_swap.md.",
  ),
  "dataset_name": Fixed(
    flags.DEFINE_string,
    "imagenet",
    "For other images: mnv2-prepare-data, then --gin_file=gin/image_folder.gin.",
  ),
  "preprocessing_name": Fixed(
    flags.DEFINE_string,
    "inception_v2",
    "Bind mobilenet_v2_classification.preprocessing by --gin_params.",
  ),
  "optimizer": Fixed(
    flags.DEFINE_string,
    "rmsprop",
    "Bind mobilenet_v2_classification.optimizer by --gin_params.",
  ),
  "eval_dir": Fixed(
    flags.DEFINE_string, "", "The evaluation is written below --model_dir."
  ),
}

NAMES = (*PLACE_FLAGS, *RECIPE_FLAGS, *OVERRIDE_FLAGS, "train_dir", *FIXED_FLAGS)


def define() -> None:
  """Defines the flags with absl; none has a default, for the recipe has them."""
  for name, (define_flag, text) in PLACE_FLAGS.items():
    define_flag(name, None, text)
  for name, row in RECIPE_FLAGS.items():
    row.define(name, None, f"{row.help} The recipe's {row.field}.")
  for name, (_, text) in OVERRIDE_FLAGS.items():
    flags.DEFINE_integer(name, None, text)
  for name, fixed in FIXED_FLAGS.items():
    fixed.define(name, None, f"Only {fixed.value!r}. {fixed.instead}")
  flags.DEFINE_string("train_dir", None, "The same as --model_dir.")


@dataclasses.dataclass(frozen=True)
class Meaning:
  """What the flags set: bindings for gin, and fields of the experiment."""

  gin_params: list[str]
  overrides: list[str]


def _check_fixed(values: Mapping[str, Any]) -> None:
  for name, fixed in FIXED_FLAGS.items():
    if values.get(name, fixed.value) != fixed.value:
      raise UserError(
        f"--{name}={values[name]}: only {fixed.value!r} is possible. {fixed.instead}"
      )


def _check_workers(values: Mapping[str, Any], world_size: int, rank: int) -> None:
  """The launcher is the one source of the number of workers."""
  started = {"num_workers": world_size, "worker_replicas": world_size, "task": rank}
  for name, found in started.items():
    if values.get(name, found) != found:
      raise UserError(
        f"--{name}={values[name]}, but this is process {rank} of {world_size}. Leave "
        "the flag out and start the workers with a launcher, for instance "
        "mpirun -np 8 mnv2-demo-mobilenetv2 …"
      )


def _place(values: Mapping[str, Any], device: str, world_size: int) -> tuple[str, int]:
  """Returns the strategy's name and the number of GPUs of this process."""
  clones = values.get("num_clones", 1)
  if values.get("clone_on_cpu") and device != "cpu":
    raise UserError(f"--clone_on_cpu and --device={device} contradict each other.")
  if clones < 1 or (clones > 1 and device != "gpu"):
    raise UserError(
      f"--num_clones={clones} on {device}: a process has one {device}. For several "
      f"cards start several processes: mpirun -np {max(2, clones)} "
      "mnv2-demo-mobilenetv2 …"
    )
  gpus = clones if device == "gpu" else 0
  if values.get("use_horovod"):
    return "horovod", gpus
  if device == "hpu":
    return "hpu", 0
  if world_size > 1:
    return "multi_worker_mirrored", gpus
  return ("mirrored" if clones > 1 else "one_device"), gpus


def _precision(values: Mapping[str, Any], device: str) -> dict[str, str]:
  """Returns the bindings of the precision; none where no flag asks for one."""
  dtype, listed = values.get("dtype"), values.get("bf16_config_path")
  if dtype not in (None, "bf16", "fp32"):
    raise UserError(f"--dtype={dtype}: allowed are bf16 and fp32.")
  if listed and (dtype != "bf16" or device != "hpu"):
    raise UserError(
      f"--bf16_config_path={listed} is the list of Habana's conversion: it needs "
      f"--dtype=bf16 --device=hpu, but they are {dtype} and {device}."
    )
  if listed:
    return {
      f"{_RECIPE}.compute_dtype": "float32",
      "mnv2_hpu.hpu.bf16_conversion": listed,
    }
  dtypes = {"bf16": "bfloat16", "fp32": "float32"}
  return {f"{_RECIPE}.compute_dtype": dtypes[dtype]} if dtype else {}


def translate(
  values: Mapping[str, Any], device: str, world_size: int, rank: int
) -> Meaning:
  """Returns what the seed's flags mean here.

  Args:
    values: the flags that were given, by name.
    device: one of `DEVICES`.
    world_size: number of processes that were started.
    rank: which of them this is.

  Raises:
    UserError: if a flag asks for what is not done here, with what to use instead.

  >>> translate({"dtype": "bf16"}, "cpu", 1, 0).gin_params[-1]
  "mobilenet_v2_classification.compute_dtype = 'bfloat16'"
  """
  _check_fixed(values)
  _check_workers(values, world_size, rank)
  strategy, gpus = _place(values, device, world_size)
  bindings = {
    f"{_RECIPE}.distribution_strategy": strategy,
    f"{_RECIPE}.num_gpus": gpus,
    **_precision(values, device),
    **{
      f"{_RECIPE}.{row.field}": values[name]
      for name, row in RECIPE_FLAGS.items()
      if name in values
    },
  }
  return Meaning(
    gin_params=[f"{name} = {value!r}" for name, value in bindings.items()],
    overrides=[
      f"{field}={values[name]}"
      for name, (field, _) in OVERRIDE_FLAGS.items()
      if name in values
    ],
  )
