"""Checkpoints of a run that are missing, corrupt or another network's.

TensorFlow keeps a checksum of every tensor and of every block of the index, and checks
them when it reads. So all of a checkpoint is read once, at about the speed of the disk,
before a training builds on it.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Mapping

import tensorflow as tf
from absl import logging

from mnv2_hpu import files
from mnv2_hpu.checkpoints import paths as checkpoint_paths
from mnv2_hpu.compat import keras
from mnv2_hpu.core import run_record
from mnv2_hpu.errors import UserError

QUARANTINE_DIR = "corrupt_checkpoints"
_LIST = "checkpoint"  # TensorFlow's list of the checkpoints in a folder

_REBUILT = "Training in this folder restores the list from the files."
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
# First parts of a checkpoint's names; the rest are the model's and its backbone's.
# The last is of TensorFlow's preemption handler, which multi_worker_mirrored brings.
_NOT_OF_THE_MODEL = ("optimizer", "global_step", "save_counter", "checkpointed_runs")


def find_corruption(prefix: str) -> str | None:
  """Returns what is wrong with a checkpoint, None where every byte can be read.

  Args:
    prefix: Path of the checkpoint, without `.index`.
  """
  try:
    reader = tf.train.load_checkpoint(prefix)
    for name in reader.get_variable_to_shape_map():
      reader.get_tensor(name)
  except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as error:
    return str(error).split("\n", maxsplit=1)[0]
  return None


def latest_checkpoint(model_dir: str) -> str | None:
  """Returns the path of the newest checkpoint that a run lists, None without a list.

  Raises:
    UserError: If the folder or its list of checkpoints cannot be read.
  """
  run_record.require_folder(model_dir)
  try:
    return tf.train.latest_checkpoint(model_dir)
  except ValueError as error:
    raise UserError(
      f"the list of checkpoints {os.path.join(model_dir, _LIST)!r} cannot be read "
      f"({error}). {_REBUILT}"
    ) from error


def latest_step(model_dir: str) -> int:
  """Returns the step of the newest checkpoint in `model_dir`, 0 where there is none."""
  checkpoint = tf.train.latest_checkpoint(model_dir) if model_dir else None
  if checkpoint is None:
    return 0
  return int(tf.train.load_variable(checkpoint, f"global_step{_VALUE}"))


def require_checkpoint(model_dir: str) -> None:
  """Refuses to evaluate a folder whose weights would be random; changes nothing in it.

  Raises:
    UserError: If `model_dir` is missing, lists no checkpoint, or the newest is corrupt.
  """
  checkpoint_paths.check_name(model_dir)
  newest = latest_checkpoint(model_dir)
  if newest is None:
    if found := _find_checkpoints(model_dir):
      name = os.path.basename(next(reversed(found)))
      if tf.io.gfile.exists(os.path.join(model_dir, _LIST)):
        raise UserError(
          f"the newest checkpoint that {os.path.join(model_dir, _LIST)!r} lists is "
          f"missing; {name} is there. Copy all files of a checkpoint. {_REBUILT}"
        )
      raise UserError(
        f"--model_dir={model_dir!r} holds {name}, but not the file {_LIST!r} that "
        f"lists the checkpoints of a run. Copy it too. {_REBUILT}"
      )
    content = ", ".join(sorted(tf.io.gfile.listdir(model_dir))[:10]) or "nothing"
    raise UserError(
      f"--model_dir={model_dir!r} holds no checkpoint, but {content}: nothing to "
      "evaluate. Give the folder of a training run, or train first (--mode=train)."
    )
  if problem := find_corruption(newest):
    raise UserError(
      f"the checkpoint {newest!r} cannot be read: {problem}. Training in this folder "
      f"would move it to {QUARANTINE_DIR!r} and go on from the one before it."
    )


def check_fits(model_dir: str, model: keras.Model) -> None:
  """Compares the shapes of the newest checkpoint in `model_dir` with the model's.

  Model Garden restores what matches by name, silently leaving the rest.

  Raises:
    UserError: If the checkpoint belongs to another network, or cannot be read.
  """
  checkpoint = tf.train.latest_checkpoint(model_dir)
  if checkpoint is None:
    return
  try:
    shapes = tf.train.load_checkpoint(checkpoint).get_variable_to_shape_map()
  except (tf.errors.OpError, ValueError) as error:
    raise UserError(f"the checkpoint {checkpoint!r} cannot be read: {error}") from error
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


def quarantine_corrupt(model_dir: str) -> None:
  """Makes the newest checkpoint of a training that can be read the newest of all.

  Corrupt ones are moved to the folder `QUARANTINE_DIR`, which is logged. What killed
  processes left of checkpoints that they had not finished is removed. Called by the one
  process that trains in the folder, which holds its lock.

  Args:
    model_dir: Folder of a training, which may be missing or empty.

  Raises:
    UserError: If there are checkpoints, but all of them are corrupt.
  """
  for leftover in tf.io.gfile.glob(os.path.join(model_dir, "ckpt-*_temp")):
    tf.io.gfile.rmtree(leftover)
  for path in tf.io.gfile.glob(os.path.join(model_dir, "*", _LIST)):
    # Of the best checkpoint or of the EMA weights: the next one is listed again.
    if tf.io.gfile.stat(path).length == 0:
      tf.io.gfile.remove(path)
  readable, is_listed = _list_checkpoints(model_dir)
  corrupt: dict[str, str] = {}
  while readable:
    newest = next(reversed(readable))
    problem = find_corruption(newest)
    if problem is None:
      break
    corrupt[newest] = problem
    del readable[newest]
  if corrupt and not readable:
    names = "; ".join(f"{os.path.basename(p)}: {text}" for p, text in corrupt.items())
    raise UserError(
      f"no checkpoint in {model_dir!r} can be read ({names}). Restore one from a copy, "
      "or start again in another --model_dir."
    )
  if readable and (corrupt or not is_listed):
    _write_list(model_dir, readable)
  for prefix, problem in corrupt.items():
    _move_to_quarantine(model_dir, prefix)
    logging.error(
      "The checkpoint %s is corrupt (%s). It was moved to %s; the training goes on "
      "from %s.",
      prefix,
      problem,
      os.path.join(model_dir, QUARANTINE_DIR),
      next(reversed(readable)),
    )


def _list_checkpoints(model_dir: str) -> tuple[dict[str, float], bool]:
  """Lists the checkpoints of a folder, oldest first.

  Returns:
    The time of writing of each by its path, in seconds since 1970, and whether
    TensorFlow's list names them; without it they were found by their files.
  """
  try:
    state = tf.train.get_checkpoint_state(model_dir)
  except ValueError:  # an empty list, as a crash of the machine leaves it
    state = None
  if state is not None:
    paths = state.all_model_checkpoint_paths
    times = state.all_model_checkpoint_timestamps or [0.0] * len(paths)
    return dict(zip(paths, times, strict=True)), True
  found = _find_checkpoints(model_dir)
  if found:
    logging.error(
      "%s has no list of its checkpoints: it is made from the files.", model_dir
    )
  return found, False


def _find_checkpoints(model_dir: str) -> dict[str, float]:
  """Returns the time of writing of each checkpoint by its path, oldest first."""
  by_step = {
    int(match[1]): path
    for path in tf.io.gfile.glob(os.path.join(model_dir, "ckpt-*.index"))
    if (match := re.search(r"ckpt-(\d+)\.index$", path))
  }
  return {
    path.removesuffix(".index"): tf.io.gfile.stat(path).mtime_nsec / 1e9
    for _, path in sorted(by_step.items())
  }


def _write_list(model_dir: str, checkpoints: Mapping[str, float]) -> None:
  """Writes TensorFlow's list; with relative paths, so that the folder can be moved."""
  names = [os.path.basename(prefix) for prefix in checkpoints]
  times = list(checkpoints.values())
  state = tf.compat.v1.train.generate_checkpoint_state_proto(
    model_dir, names[-1], names, times, last_preserved_timestamp=min(times) - 1
  )
  # What it made of relative names depends on whether the folder's path is absolute.
  state.model_checkpoint_path = names[-1]
  state.all_model_checkpoint_paths[:] = names
  with files.atomic_write(os.path.join(model_dir, _LIST)) as file:
    file.write(str(state))


def _move_to_quarantine(model_dir: str, prefix: str) -> None:
  folder = os.path.join(model_dir, QUARANTINE_DIR)
  tf.io.gfile.makedirs(folder)
  for path in tf.io.gfile.glob(f"{glob.escape(prefix)}.*"):
    target = os.path.join(folder, os.path.basename(path))
    tf.io.gfile.rename(path, target, overwrite=True)
