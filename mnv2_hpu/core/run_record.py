"""What a model folder says of its run: recipe, lock, and whether it has finished."""

import contextlib
import datetime
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import gin
import tensorflow as tf
from absl import logging
from official.core import config_definitions as cfg
from official.modeling import hyperparams

from mnv2_hpu import __version__, compat, deprecations, files
from mnv2_hpu.configs import (
  image_classification,
  object_detection,
  quantization,
  semantic_segmentation,
)
from mnv2_hpu.core import config_check
from mnv2_hpu.dataloaders import dataset_info
from mnv2_hpu.errors import UserError, did_you_mean

FILE = "run_record.json"
PARAMS_FILE = "params.yaml"  # Model Garden's
OPERATIVE_GIN = "operative_config.start.gin"
LOCK_FILE = "run.lock"
FINISHED_FILE = "finished.json"

# Paths below which a difference makes a resumed run another experiment.
RECIPE = (
  "task.model",
  "task.losses",
  "task.freeze_backbone",
  "task.backbone_learning_rate_multiplier",
  "task.train_data.global_batch_size",
  "task.train_data.preprocessing",
  "task.train_data.preprocessing_options",
  "trainer.optimizer_config",
  "runtime.mixed_precision_dtype",
)

_READABLE: tuple[type[cfg.TaskConfig], ...] = (
  image_classification.ImageClassificationTask,  # what records before 0.3 are of
  object_detection.ObjectDetectionTask,
  semantic_segmentation.SemanticSegmentationTask,
  *quantization.FLOAT_TASKS,
)
# Those of a run that this project's commands can read, by the name in its record.
TASKS = {task.__name__: task for task in _READABLE}

_LOCK_TRIES = 3  # `is_training` holds the lock for a moment

# Path of the file -> its descriptor. Closing the descriptor would drop the lock.
_held: dict[str, int] = {}


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


def recipe(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the values that make a run what it is, by their dotted paths."""
  return {
    path: value
    for path, value in flatten(config)
    if any(path == root or path.startswith(f"{root}.") for root in RECIPE)
  }


def require_folder(model_dir: str) -> None:
  """Refuses to read a run from what is no folder, or from one that cannot be read.

  Raises:
    UserError: Naming the folder and what is wrong with it.
  """
  problem = "does not exist"
  try:
    if tf.io.gfile.isdir(model_dir):
      tf.io.gfile.listdir(model_dir)
      return
    if tf.io.gfile.exists(model_dir):
      problem = "is a file"
  except (tf.errors.OpError, OSError) as error:
    problem = f"cannot be read ({_first_line(error)})"
  raise UserError(
    f"--model_dir={model_dir!r} {problem}. Give the folder of a training run."
  )


def _first_line(error: Exception) -> str:
  return str(error).split("\n", maxsplit=1)[0]


def _read_json(path: str, key: str, default: Any = None) -> Any:
  """Returns a value of a JSON file of a run; the default, if any, where it is missing.

  Raises:
    UserError: If the file cannot be read, or was written by half.
  """
  try:
    with tf.io.gfile.GFile(path) as file:
      content = json.load(file)
      return content[key] if default is None else content.get(key, default)
  except (
    *(tf.errors.OpError, OSError, ValueError, TypeError, KeyError, AttributeError),
    RecursionError,
  ) as error:
    raise UserError(
      f"{path!r} cannot be read ({_first_line(error)}). Restore it from a copy, "
      "or remove it: a training in this folder writes it again."
    ) from error


def _read_config(path: str) -> dict[str, Any]:
  """Returns the experiment of a record, of an earlier release's too."""
  config = _read_json(path, "config")
  is_whole = isinstance(config, dict) and isinstance(config.get("task"), dict)
  return deprecations.upgrade_experiment(config) if is_whole else config


def check_and_write(
  model_dir: str, config: cfg.ExperimentConfig, allow_change: bool
) -> None:
  """Compares `config` with the run recorded in `model_dir`, then records it.

  A folder without checkpoints holds nothing to resume: its record is replaced.

  Raises:
    UserError: If the recipe differs and `allow_change` is False.
  """
  path = os.path.join(model_dir, FILE)
  current = config.as_dict()
  if tf.train.latest_checkpoint(model_dir) and tf.io.gfile.exists(path):
    before = recipe(_read_config(path))
    now = recipe(json.loads(json.dumps(current)))
    # A field that one of them lacks came or went with a release.
    changed = [
      f"  {name}: {before[name]!r} -> {now[name]!r}"
      for name in sorted(before.keys() & now.keys())
      if before[name] != now[name]
    ]
    if changed and not allow_change:
      raise UserError(
        f"{model_dir!r} holds a run with another recipe (then -> now):\n"
        + "\n".join(changed)
        + "\nUse another --model_dir, restore the old values, or resume all the same "
        "with --gin_params='mnv2_hpu.Trainer.allow_config_change = True'."
      )
  write(model_dir, config)
  if isinstance(config.task, tuple(TASKS.values())):
    _keep_dataset_info(model_dir, config)


def _keep_dataset_info(model_dir: str, config: cfg.ExperimentConfig) -> None:
  """Copies what names the classes: data may be out of reach where a run is used."""
  data_dir = os.path.dirname(config.task.train_data.input_path)
  source = os.path.join(data_dir, dataset_info.FILE_NAME)
  if tf.io.gfile.exists(source):
    with tf.io.gfile.GFile(source, "rb") as file:
      content = file.read()
    target = os.path.join(model_dir, dataset_info.FILE_NAME)
    with files.atomic_write(target, "wb") as file:
      file.write(content)


def write(model_dir: str, config: cfg.ExperimentConfig) -> None:
  """Records an experiment in a folder, as a run that has not finished.

  Args:
    model_dir: Folder of the run; it is created where it is missing.
    config: Experiment.
  """
  versions = {
    "mnv2_hpu": __version__,
    "tensorflow": tf.__version__,
    compat.MODEL_GARDEN: compat.version(compat.MODEL_GARDEN),
  }
  record = json.dumps(
    {
      "task": type(config.task).__name__,
      "config": config.as_dict(),
      "versions": versions,
    },
    indent=2,
  )
  tf.io.gfile.makedirs(model_dir)
  for name, text in ((FILE, f"{record}\n"), (OPERATIVE_GIN, gin.config_str())):
    with files.atomic_write(os.path.join(model_dir, name)) as file:
      file.write(text)
  finished = os.path.join(model_dir, FINISHED_FILE)
  if tf.io.gfile.exists(finished):
    tf.io.gfile.remove(finished)


def restore_params_file(model_dir: str) -> None:
  """Writes `params.yaml` as the recorded run had it.

  The driver writes that file before a run that is refused is known to be.
  """
  path = os.path.join(model_dir, FILE)
  if tf.io.gfile.exists(path):
    hyperparams.save_params_dict_to_yaml(
      hyperparams.ParamsDict(_read_config(path)), os.path.join(model_dir, PARAMS_FILE)
    )


def load(model_dir: str) -> cfg.ExperimentConfig:
  """Returns the experiment recorded in `model_dir`.

  Args:
    model_dir: Folder of a run of one of `TASKS`.

  Raises:
    UserError: If the folder holds no record, or one that cannot be read.
  """
  require_folder(model_dir)
  path = os.path.join(model_dir, FILE)
  if not tf.io.gfile.exists(path):
    raise UserError(
      f"{model_dir!r} holds no {FILE}, which training writes before its first step. "
      "Give the folder of a training run as --model_dir."
    )
  task = _read_json(path, "task", default=next(iter(TASKS)))
  if task not in TASKS:
    raise UserError(
      f"{model_dir!r} holds a run of {task!r}. {did_you_mean(str(task), TASKS)}"
    )
  config = cfg.ExperimentConfig(task=TASKS[task]())
  try:
    config.override(_read_config(path))
    config_check.check(config, train=False)
    if not isinstance(config.task, TASKS[task]):
      raise TypeError(f"its task is {config.task!r}")
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise UserError(
      f"{path!r} does not describe a run of {task} ({error}). Give the "
      "folder of a run of this version."
    ) from error
  return config


def write_finished(model_dir: str, step: int) -> None:
  """Marks a run as finished at a step, until a training starts in its folder again."""
  with files.atomic_write(os.path.join(model_dir, FINISHED_FILE)) as file:
    json.dump({"step": step}, file)


def finished_step(model_dir: str) -> int | None:
  """Returns the last step of a run that has finished, None for any other."""
  path = os.path.join(model_dir, FINISHED_FILE)
  return int(_read_json(path, "step")) if tf.io.gfile.exists(path) else None


def acquire_lock(model_dir: str) -> None:
  """Takes the lock of a model folder, until the process ends.

  The lock belongs to an open file (flock), so the kernel drops it when its holder ends,
  however it ends, by kill -9 or with the machine; the file itself stays. Evaluation
  takes no lock: it may watch a folder in which a training runs.

  Taking it again in the same process changes nothing. Folders in object stores
  (`gs://…`) and file systems without locks are left unlocked, which is logged.

  Args:
    model_dir: Folder of the run; it is created where it is missing.

  Raises:
    UserError: If another process trains in the folder.
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
    _lock(descriptor)
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
  holder_of = {
    "pid": os.getpid(),
    "host": socket.gethostname(),
    "started": datetime.datetime.now(datetime.timezone.utc).isoformat(" ", "seconds"),
  }
  os.ftruncate(descriptor, 0)
  os.pwrite(descriptor, json.dumps(holder_of).encode() + b"\n", 0)


def is_training(model_dir: str) -> bool:
  """Returns whether a process of this machine holds the lock of a model folder."""
  with contextlib.suppress(FileNotFoundError):
    descriptor = os.open(os.path.join(model_dir, LOCK_FILE), os.O_RDONLY)
    try:
      fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
      return True
    finally:
      os.close(descriptor)
  return False


def lost_holder(model_dir: str) -> str | None:
  """Names the training that held the lock of a model folder, if it is gone.

  None where it runs, where none was seen, and where it ran on another machine, whose
  locks this one does not see.
  """
  if "://" in model_dir or is_training(model_dir):
    return None
  try:
    with open(os.path.join(model_dir, LOCK_FILE), "rb") as file:
      if json.loads(file.read())["host"] != socket.gethostname():
        return None
      return _holder(file.fileno())
  except (OSError, ValueError, KeyError, TypeError):
    return None


def _lock(descriptor: int) -> None:
  for attempt in range(_LOCK_TRIES):
    try:
      return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      if attempt == _LOCK_TRIES - 1:
        raise
      time.sleep(0.05)
  return None


def _holder(descriptor: int) -> str:
  """Names who holds the lock; for a moment after it was taken, the file is empty."""
  try:
    holder = json.loads(os.pread(descriptor, 4096, 0))
  except ValueError:
    return "another process"
  return "process {pid} on {host}, started {started},".format(**holder)
