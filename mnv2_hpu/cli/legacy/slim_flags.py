"""The flags of Habana's (slim) launcher, and what each means here."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from absl import flags

from mnv2_hpu import cluster
from mnv2_hpu.cli.path_flags import define_path
from mnv2_hpu.distribute import hpu_environment
from mnv2_hpu.errors import UserError

DEVICES = ("hpu", "gpu", "cpu")
MODES = {"train": "train", "validation": "eval"}  # computation_type -> driver's mode
_RECIPE = "mobilenet_v2_classification"

# flag -> type, field of the recipe, help
RECIPE_FLAGS = {
  "batch_size": (int, "batch_size", "Images of each worker."),
  "train_image_size": (int, "image_size", "Height and width in pixels."),
  "learning_rate": (float, "learning_rate", "Rate for one worker; several scale it."),
  "learning_rate_decay_factor": (float, "decay_rate", "Factor of each decay."),
  "num_epochs_per_decay": (float, "decay_epochs", "Epochs between two decays."),
  "warmup_epochs": (float, "warmup_epochs", "Epochs of linear warm-up."),
  "weight_decay": (float, "weight_decay", "Weight decay of the kernels."),
  "label_smoothing": (float, "label_smoothing", "Label smoothing."),
  "rmsprop_decay": (float, "rho", "Decay of RMSProp's mean square."),
  "rmsprop_momentum": (float, "momentum", "Momentum of RMSProp."),
  "opt_epsilon": (float, "epsilon", "Epsilon of RMSProp."),
  "moving_average_decay": (float, "ema_decay", "Decay of the EMA weights."),
  "log_every_n_steps": (int, "log_every_steps", "Steps between two lines."),
}

# flag -> field of the experiment, help
OVERRIDE_FLAGS = {
  "max_number_of_steps": ("trainer.train_steps", "Steps, in place of epochs."),
  "max_num_batches": ("trainer.validation_steps", "Evaluate so many batches only."),
}

# flag -> type, help
_RUNTIME_FLAGS = {
  "dtype": (str, "bf16 or fp32."),
  "bf16_config_path": (
    str,
    "With --dtype=bf16 on hpu: Habana's conversion by this list, not Keras' policy.",
  ),
  "num_clones": (int, "GPUs of this process."),
  "clone_on_cpu": (bool, "Compute on the CPU."),
  "use_horovod": (bool, "Join the workers by Horovod."),
  "num_workers": (int, "Workers; must be what the launcher started."),
  "worker_replicas": (int, "The same as --num_workers."),
  "task": (int, "This worker; must be what the launcher said."),
}

# flag -> the one value that is accepted
UNSUPPORTED_FLAGS = {
  "num_ps_tasks": "0",
  "master": "",
  "model_name": "mobilenet_v2",
  "dataset_name": "imagenet",
  "preprocessing_name": "inception_v2",
  "optimizer": "rmsprop",
  "eval_dir": "",
}
_INSTEAD = (
  "Start workers by mpirun or horovodrun; there are no parameter servers. Other "
  "networks: mnv2-train --experiment=…, see docs/backbone_swap.md. Other images: "
  "mnv2-prepare-data, then --gin_file=gin/image_folder.gin. Other preprocessing or "
  f"optimizer: bind {_RECIPE}.preprocessing or .optimizer by --gin_params. "
  "Evaluations are written below --model_dir."
)

_RECIPE_FIELDS = {
  **{name: field for name, (_, field, _) in RECIPE_FLAGS.items()},
  "checkpoint_path": "init_checkpoint",
}
NAMES = (
  "dataset_dir",
  "device",
  "computation_type",
  *_RUNTIME_FLAGS,
  *RECIPE_FLAGS,
  *OVERRIDE_FLAGS,
  "train_dir",
  "checkpoint_path",
  *UNSUPPORTED_FLAGS,
)
_DEFINE = {
  bool: flags.DEFINE_bool,
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  str: flags.DEFINE_string,
}


def define() -> None:
  """Defines the flags with absl; none has a default, for the recipe has them."""
  define_path(
    "dataset_dir",
    None,
    "Folder of the TFRecords train-* and validation-*.",
    remote=True,
  )
  flags.DEFINE_enum(
    "device", None, DEVICES, "Where to compute; by default the best there is."
  )
  flags.DEFINE_enum("computation_type", None, MODES, "What to do; train by default.")
  for name, (kind, text) in _RUNTIME_FLAGS.items():
    _DEFINE[kind](name, None, text)
  for name, (kind, field, text) in RECIPE_FLAGS.items():
    _DEFINE[kind](name, None, f"{text} The recipe's {field}.")
  for name, (_, text) in OVERRIDE_FLAGS.items():
    flags.DEFINE_integer(name, None, text)
  for name, value in UNSUPPORTED_FLAGS.items():
    flags.DEFINE_string(name, None, f"Not supported, except {value!r}.")
  define_path("train_dir", None, "The same as --model_dir.", remote=True)
  define_path("checkpoint_path", None, "The recipe's init_checkpoint.", remote=True)


def set_driver_flags() -> None:
  """Sets the flags of Model Garden's driver to what the flags given mean.

  Raises:
    UserError: If a flag requests what is not supported, with what to use instead.
  """
  settings = flags.FLAGS
  if not settings.dataset_dir:
    raise UserError(
      "--dataset_dir is missing: the folder of the TFRecords train-* and validation-*. "
      "mnv2-prepare-data makes them; `make quickstart` makes those of the digits."
    )
  values = {name: settings[name].value for name in NAMES if settings[name].present}
  device = settings.device or _best_device(values)
  meaning = translate(
    values, device, cluster.world_size(os.environ), cluster.rank(os.environ)
  )
  print(f"device {device}: {', '.join(meaning.gin_params)}")
  settings.model_dir = values.get("train_dir", settings.model_dir)
  settings.mode = MODES[settings.computation_type or "train"]
  settings.gin_file = settings.gin_file or ["gin/imagenet.gin"]
  settings.gin_params = [
    f"DATA_DIR = {settings.dataset_dir!r}",
    *meaning.gin_params,
    *(settings.gin_params or []),
  ]
  settings.params_override = ",".join(
    filter(None, [*meaning.overrides, settings.params_override])
  )


def _best_device(values: Mapping[str, Any]) -> str:
  """Returns the fastest device that there is and that the flags admit."""
  if values.get("clone_on_cpu"):
    return "cpu"
  if hpu_environment.is_device_present():
    return "hpu"
  import tensorflow as tf

  return "gpu" if tf.config.list_physical_devices("GPU") else "cpu"


@dataclasses.dataclass(frozen=True)
class Meaning:
  """What the flags set: bindings for gin, and fields of the experiment."""

  gin_params: list[str]
  overrides: list[str]


def _check_supported(values: Mapping[str, Any]) -> None:
  for name, value in UNSUPPORTED_FLAGS.items():
    if values.get(name, value) != value:
      raise UserError(
        f"--{name}={values[name]} is not supported, only {value!r} is. {_INSTEAD}"
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


def _strategy(
  values: Mapping[str, Any], device: str, world_size: int
) -> tuple[str, int]:
  """Returns the strategy's name and the number of GPUs of this process."""
  clones = values.get("num_clones", 1)
  if values.get("clone_on_cpu") and device != "cpu":
    raise UserError(f"--clone_on_cpu and --device={device} contradict each other.")
  if clones < 1 or (clones > 1 and device != "gpu"):
    raise UserError(
      f"--num_clones={clones} on {device}: a process has one {device}. For several "
      f"devices start several processes: mpirun -np {max(2, clones)} "
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
  """Returns the bindings of the precision; none where no flag sets it."""
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
  """Returns what the flags mean here.

  Args:
    values: Flags that were given, by name.
    device: One of `DEVICES`.
    world_size: Number of processes that were started.
    rank: Number of this process.

  Raises:
    UserError: If a flag requests what is not supported, with what to use instead.

  >>> translate({"dtype": "bf16"}, "cpu", 1, 0).gin_params[-1]
  "mobilenet_v2_classification.compute_dtype = 'bfloat16'"
  """
  _check_supported(values)
  _check_workers(values, world_size, rank)
  strategy, gpus = _strategy(values, device, world_size)
  bindings = {
    f"{_RECIPE}.distribution_strategy": strategy,
    f"{_RECIPE}.num_gpus": gpus,
    **_precision(values, device),
    **{
      f"{_RECIPE}.{field}": values[name]
      for name, field in _RECIPE_FIELDS.items()
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
