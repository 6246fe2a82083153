"""Checkpoints that a crash or a disk has damaged: found before anybody reads them.

TensorFlow keeps a checksum of every tensor and of every block of the index, and looks
at them when it reads. So all of a checkpoint is read once, at about the speed of the
disk, before a training builds on it.
"""

import glob
import os
import re
from collections.abc import Mapping

import tensorflow as tf
from absl import logging

from mnv2_hpu.errors import UserError

QUARANTINE_DIR = "damaged_checkpoints"
_LIST = "checkpoint"  # TensorFlow's list of the checkpoints in a folder


def find_corruption(prefix: str) -> str | None:
  """Returns what is wrong with a checkpoint, None where every byte can be read.

  Args:
    prefix: path of the checkpoint, without `.index`.
  """
  try:
    reader = tf.train.load_checkpoint(prefix)
    for name in reader.get_variable_to_shape_map():
      reader.get_tensor(name)
  except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as error:
    return str(error).split("\n", maxsplit=1)[0]
  return None


def require_readable(model_dir: str) -> None:
  """Refuses a folder whose newest checkpoint is damaged; changes nothing in it.

  Raises:
    UserError: naming the checkpoint and the damage.
  """
  newest = tf.train.latest_checkpoint(model_dir)
  problem = find_corruption(newest) if newest else None
  if problem:
    raise UserError(
      f"the checkpoint {newest!r} cannot be read: {problem}. Training in this folder "
      "would set it aside and go on from the one before it."
    )


def quarantine_corrupt(model_dir: str) -> str | None:
  """Makes the newest undamaged checkpoint of a training the newest of all.

  Damaged ones are moved to the folder `damaged_checkpoints`, and that is said. What
  killed processes left of checkpoints that they had not finished is removed. To be
  called by the one process that trains in the folder (see `run_lock`).

  Args:
    model_dir: the folder of a training, which may be missing or empty.

  Returns:
    The path of the checkpoint that will be read, None where there is none.

  Raises:
    UserError: if there are checkpoints, but all of them are damaged.
  """
  for leftover in tf.io.gfile.glob(os.path.join(model_dir, "ckpt-*_temp")):
    tf.io.gfile.rmtree(leftover)
  listed, list_is_damaged = _listed(model_dir)
  damaged: dict[str, str] = {}
  good = dict(listed)
  while good:
    newest = next(reversed(good))
    problem = find_corruption(newest)
    if problem is None:
      break
    damaged[newest] = problem
    del good[newest]
  if damaged and not good:
    names = "; ".join(f"{os.path.basename(p)}: {text}" for p, text in damaged.items())
    raise UserError(
      f"no checkpoint in {model_dir!r} can be read ({names}). Restore one from a copy, "
      "or start anew in another --model_dir."
    )
  used = next(reversed(good), None)
  if used and (damaged or list_is_damaged):
    _write_list(model_dir, good)
  for prefix, problem in damaged.items():
    _quarantine(model_dir, prefix)
    logging.error(
      "The checkpoint %s is damaged (%s). It was moved to %s; the training goes on "
      "from %s.",
      prefix,
      problem,
      os.path.join(model_dir, QUARANTINE_DIR),
      used,
    )
  return used


def _listed(model_dir: str) -> tuple[dict[str, float], bool]:
  """Lists the checkpoints of a folder, oldest first.

  Returns:
    The time of writing of each, in seconds since 1970, and whether TensorFlow's list
    was damaged, so that the files had to be asked.
  """
  try:
    state = tf.train.get_checkpoint_state(model_dir)
  except ValueError:  # an empty list, as a crash of the machine leaves it
    state = None
  if state is not None:
    paths = state.all_model_checkpoint_paths
    times = state.all_model_checkpoint_timestamps or [0.0] * len(paths)
    return dict(zip(paths, times, strict=True)), False
  if not tf.io.gfile.exists(os.path.join(model_dir, _LIST)):
    return {}, False
  logging.error("The list of checkpoints in %s is damaged: made anew.", model_dir)
  found = {
    int(match[1]): path
    for path in tf.io.gfile.glob(os.path.join(model_dir, "ckpt-*.index"))
    if (match := re.search(r"ckpt-(\d+)\.index$", path))
  }
  indices = [found[step] for step in sorted(found)]
  return {
    path.removesuffix(".index"): tf.io.gfile.stat(path).mtime_nsec / 1e9
    for path in indices
  }, True


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
  path = os.path.join(model_dir, _LIST)
  with tf.io.gfile.GFile(f"{path}.partial", "w") as file:
    file.write(str(state))
  tf.io.gfile.rename(f"{path}.partial", path, overwrite=True)


def _quarantine(model_dir: str, prefix: str) -> None:
  folder = os.path.join(model_dir, QUARANTINE_DIR)
  tf.io.gfile.makedirs(folder)
  for path in tf.io.gfile.glob(f"{glob.escape(prefix)}.*"):
    target = os.path.join(folder, os.path.basename(path))
    tf.io.gfile.rename(path, target, overwrite=True)
