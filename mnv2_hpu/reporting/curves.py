"""Learning curves, read from the TensorBoard event files of a model folder."""

import dataclasses
import logging
import os
from collections.abc import Iterable

import numpy as np
from tensorboard.backend.event_processing import event_accumulator, io_wrapper
from tensorboard.util import tensor_util

from mnv2_hpu.errors import UserError, shorten

TRAIN_SUBDIR = "train"
VALIDATION_SUBDIR = "validation"

# It reports at the end of every file that there is no further one.
logging.getLogger("tensorboard").setLevel(logging.WARNING)

# (step, value), steps ascending.
Curve = list[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class Curves:
  """The scalars that a run logged.

  Attributes:
    train: Curves by tag, such as `training_loss` and `learning_rate`.
    validation: Curves by tag, such as `validation_loss` and `accuracy`.
  """

  train: dict[str, Curve]
  validation: dict[str, Curve]


def drop_superseded(points: Iterable[tuple[int, float]]) -> Curve:
  """Keeps what the last run wrote, of points in the order of writing.

  A run resumed from step k writes steps after k again; what a killed run had written
  there no longer belongs to the weights.

  >>> drop_superseded([(10, 0.9), (20, 0.8), (30, 0.7), (20, 0.75), (40, 0.6)])
  [(10, 0.9), (20, 0.75), (40, 0.6)]
  """
  curve: Curve = []
  for step, value in points:
    while curve and curve[-1][0] >= step:
      curve.pop()
    curve.append((step, value))
  return curve


def has_events(directory: str) -> bool:
  """Whether a folder is there and holds an event file."""
  return os.path.isdir(directory) and any(
    map(io_wrapper.IsTensorFlowEventsFile, os.listdir(directory))
  )


def read_scalars(directory: str) -> dict[str, Curve]:
  """Reads every scalar from the event files in a folder.

  Args:
    directory: Folder of `events.out.tfevents.*` files, one for each start of the
      run; a file that a killed run left unfinished is read as far as it goes.

  Returns:
    The curves by tag. What is no scalar is left out.

  Raises:
    UserError: If the folder is missing or holds no event file.
  """
  if not has_events(directory):
    found = "does not exist"
    if os.path.isdir(directory):
      found = f"holds {shorten(sorted(os.listdir(directory))) or 'nothing'}"
    raise UserError(
      f"No TensorBoard event files: {directory!r} {found}. Give the model folder of a "
      "run that has trained and evaluated (--mode=train_and_eval)."
    )
  accumulator = event_accumulator.EventAccumulator(
    directory,
    size_guidance={event_accumulator.TENSORS: 0},  # 0: all of them
    purge_orphaned_data=False,  # `drop_superseded` does it, whatever wrote the file
  )
  accumulator.Reload()
  scalars = {}
  for tag in accumulator.Tags()["tensors"]:
    events = sorted(accumulator.Tensors(tag), key=lambda event: event.wall_time)
    arrays = [(e.step, tensor_util.make_ndarray(e.tensor_proto)) for e in events]
    if all(a.size == 1 and np.issubdtype(a.dtype, np.number) for _, a in arrays):
      scalars[tag] = drop_superseded((step, a.item()) for step, a in arrays)
  return scalars


def read(model_dir: str) -> Curves:
  """Reads the curves of a run that has trained and evaluated.

  Raises:
    UserError: If `<model_dir>/train` or `<model_dir>/validation` holds no event file.
  """
  return Curves(
    train=read_scalars(os.path.join(model_dir, TRAIN_SUBDIR)),
    validation=read_scalars(os.path.join(model_dir, VALIDATION_SUBDIR)),
  )
