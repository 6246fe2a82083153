"""What ran in a model folder before: recorded before step 0, compared on resuming."""

import datetime
import fcntl
import json
import os
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import gin
import tensorflow as tf
from absl import logging
from official.core import config_definitions as cfg

from mnv2_hpu import __version__, compat
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError

FILE = "run_record.json"
OPERATIVE_GIN = "operative_config.start.gin"
LOCK_FILE = "run.lock"

# Paths below which a difference makes a resumed run another experiment.
RECIPE = (
  "task.model",
  "task.losses",
  "task.train_data.global_batch_size",
  "task.train_data.preprocessing",
  "trainer.optimizer_config",
  "runtime.mixed_precision_dtype",
)

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
# First parts of a checkpoint's names; the rest are the model's and its backbone's.
# The last is of TensorFlow's preemption handler, which multi_worker_mirrored brings.
_NOT_OF_THE_MODEL = ("optimizer", "global_step", "save_counter", "checkpointed_runs")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Yields (dotted path, leaf) of a nested mapping, in order.

  >>> list(flatten({"task": {"model": {"num_classes": 10}}, "seed": 0}))
  [('task.model.num_classes', 10), ('seed', 0)]
  """
  for key, value in tree.items():
    path = f"{prefix}{key}"
    if isinstance(value, Mapping):
      yield from flatten(value, f"{path}.")
    else:
      yield path, list(value) if isinstance(value, tuple) else value


def _recipe(config: Mapping[str, Any]) -> dict[str, Any]:
  return {
    path: value
    for path, value in flatten(config)
    if any(path == root or path.startswith(f"{root}.") for root in RECIPE)
  }


def check_and_write(
  model_dir: str, config: cfg.ExperimentConfig, allow_change: bool
) -> None:
  """Compares `config` with the run recorded in `model_dir`, then records it.

  A folder without checkpoints holds nothing to resume: its record is replaced.

  Raises:
    UserError: if the recipe differs and `allow_change` is False.
  """
  path = os.path.join(model_dir, FILE)
  current = config.as_dict()
  if tf.train.latest_checkpoint(model_dir) and tf.io.gfile.exists(path):
    with tf.io.gfile.GFile(path) as file:
      before = _recipe(json.load(file)["config"])
    now = _recipe(json.loads(json.dumps(current)))
    changed = [
      f"  {name}: {before.get(name)!r} -> {now.get(name)!r}"
      for name in sorted({*before, *now})
      if before.get(name) != now.get(name)
    ]
    if changed and not allow_change:
      raise UserError(
        f"{model_dir!r} holds a run with another recipe (then -> now):\n"
        + "\n".join(changed)
        + "\nUse another --model_dir, restore the old values, or resume all the same "
        "with --gin_params='mnv2_hpu.Trainer.allow_config_change = True'."
      )
  record = {
    "config": current,
    "versions": {
      "mnv2_hpu": __version__,
      "tensorflow": tf.__version__,
      compat.MODEL_GARDEN: compat.version(compat.MODEL_GARDEN),
    },
  }
  _write(path, json.dumps(record, indent=2) + "\n")
  _write(os.path.join(model_dir, OPERATIVE_GIN), gin.config_str())


def _write(path: str, text: str) -> None:
  tf.io.gfile.makedirs(os.path.dirname(path))
  with tf.io.gfile.GFile(f"{path}.partial", "w") as file:
    file.write(text)
  tf.io.gfile.rename(f"{path}.partial", path, overwrite=True)


def load(model_dir: str, task: cfg.TaskConfig) -> cfg.ExperimentConfig:
  """Returns the experiment recorded in `model_dir`.

  Args:
    model_dir: folder of a run.
    task: a task configuration of the class that the run had, with any values.

  Raises:
    UserError: if the folder holds no record.
  """
  path = os.path.join(model_dir, FILE)
  if not tf.io.gfile.exists(path):
    raise UserError(
      f"{model_dir!r} holds no {FILE}, which training writes before its first step. "
      "Give the folder of a training run as --model_dir."
    )
  config = cfg.ExperimentConfig(task=task)
  with tf.io.gfile.GFile(path) as file:
    config.override(json.load(file)["config"])
  return config


def latest_step(model_dir: str) -> int:
  """Returns the step of the newest checkpoint in `model_dir`, 0 where there is none."""
  checkpoint = tf.train.latest_checkpoint(model_dir) if model_dir else None
  if checkpoint is None:
    return 0
  return int(tf.train.load_variable(checkpoint, f"global_step{_VALUE}"))


def require_checkpoint(model_dir: str) -> None:
  """Refuses to evaluate a folder whose weights would be random.

  Raises:
    UserError: if `model_dir` is missing or holds no checkpoint.
  """
  if not tf.io.gfile.isdir(model_dir):
    raise UserError(f"--model_dir={model_dir!r} does not exist: nothing to evaluate.")
  if tf.train.latest_checkpoint(model_dir) is None:
    content = ", ".join(sorted(tf.io.gfile.listdir(model_dir))[:10]) or "nothing"
    raise UserError(
      f"--model_dir={model_dir!r} holds no checkpoint, but {content}: nothing to "
      "evaluate. Give the folder of a training run, or train first (--mode=train)."
    )


def check_checkpoint_fits(model_dir: str, model: keras.Model) -> None:
  """Compares the shapes of the newest checkpoint in `model_dir` with the model's.

  Model Garden restores what matches by name, silently leaving the rest.

  Raises:
    UserError: if the checkpoint belongs to another network, or cannot be read.
  """
  checkpoint = tf.train.latest_checkpoint(model_dir)
  if checkpoint is None:
    return
  try:
    shapes = tf.train.load_checkpoint(checkpoint).get_variable_to_shape_map()
  except (tf.errors.OpError, ValueError) as error:
    raise UserError(
      f"the checkpoint {checkpoint!r} cannot be read ({error}). Remove it (and its "
      f"line in {os.path.join(model_dir, 'checkpoint')!r}) to use the one before it."
    ) from error
  stored = Counter(
    tuple(shape)
    for name, shape in shapes.items()
    if name.endswith(_VALUE)
    and ".OPTIMIZER_SLOT" not in name
    and name.split("/")[0] not in _NOT_OF_THE_MODEL
  )
  wanted = Counter(tuple(variable.shape) for variable in model.variables)
  missing, surplus = wanted - stored, stored - wanted
  if missing or surplus:
    raise UserError(
      f"{model_dir!r} holds a run of another network: its checkpoint "
      f"{os.path.basename(checkpoint)!r} lacks variables of shape "
      f"{_some(missing)} and has others of shape {_some(surplus)}. Use another "
      "--model_dir, or the width, classes and head of that run (run_record.json)."
    )


def _some(shapes: Counter[tuple[int, ...]]) -> str:
  return ", ".join(str(list(shape)) for shape in sorted(shapes)[:3]) or "none"


# Path of the file -> its descriptor. Closing the descriptor would drop the lock.
_held: dict[str, int] = {}


def acquire_lock(model_dir: str) -> None:
  """Takes the lock of a model folder, until the process ends.

  The lock belongs to an open file (flock), so the kernel drops it when its holder ends,
  however it ends, by kill -9 or with the machine; the file itself stays.
  Evaluation takes no lock: it may watch a folder in which a training runs.

  Taking it again in the same process changes nothing. Folders in object stores
  (`gs://…`) and file systems without locks are left unlocked, which is logged.

  Args:
    model_dir: the folder; it is created where it is missing.

  Raises:
    UserError: if another process trains in the folder.
  """
  if "://" in model_dir:
    logging.warning("%s is not locked: start no second training in it.", model_dir)
    return
  path = os.path.join(os.path.realpath(model_dir), LOCK_FILE)
  if path in _held:
    return
  os.makedirs(model_dir, exist_ok=True)
  descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    holder = _holder(descriptor)
    os.close(descriptor)
    raise UserError(
      f"{model_dir!r} is in use: {holder} trains in it. Wait for its end, end it, or "
      "use another --model_dir. Evaluation (--mode=eval or continuous_eval) may run "
      "beside it."
    ) from error
  except OSError as error:
    os.close(descriptor)
    logging.warning(
      "%s cannot be locked (%s): start no second training in it.", model_dir, error
    )
    return
  _held[path] = descriptor
  _write_holder(descriptor)


def _write_holder(descriptor: int) -> None:
  holder = {
    "pid": os.getpid(),
    "host": socket.gethostname(),
    "started": datetime.datetime.now(datetime.timezone.utc).isoformat(" ", "seconds"),
  }
  os.ftruncate(descriptor, 0)
  os.pwrite(descriptor, json.dumps(holder).encode() + b"\n", 0)


def _holder(descriptor: int) -> str:
  """Says who holds the lock; for a moment after it was taken, the file is empty."""
  try:
    holder = json.loads(os.pread(descriptor, 4096, 0))
  except ValueError:
    return "another process"
  return "process {pid} on {host}, started {started},".format(**holder)
