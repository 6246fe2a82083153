"""Rank 0 alone writes: the others get a folder of their own, and are quiet.

Every rank takes part in saving, because reading a variable may reduce it over the
ranks. What ranks other than 0 save nobody wants: it goes to a scratch folder that
exists as long as the process. They neither read nor write the run's model folder.

All of this is for trainers that join ranks; under others nothing is changed.
"""

import atexit
import contextlib
import fcntl
import functools
import glob
import os
import shutil
import sys
import tempfile

import gin
from absl import flags, logging

from mnv2_hpu import cluster

_PREFIX = "mnv2_hpu.rank"
_LOCK = "lock"  # held as long as the process lives
_TRAINER = "create_trainer.trainer_cls"  # Model Garden's


def joins_ranks() -> bool:
  """Returns whether the trainer that gin binds makes one run of several ranks.

  Such a trainer says so by an attribute of this name. Model Garden's own restores on
  every rank what that rank finds in the model folder.
  """
  try:
    bound = gin.query_parameter(_TRAINER)
  except ValueError:  # not bound, or not in a driver of Model Garden
    return False
  if isinstance(bound, gin.config.ConfigurableReference):
    bound = bound.configurable.wrapped
  return getattr(bound, "joins_ranks", False)


def _remove_abandoned() -> None:
  """Removes the scratch folders of processes that were killed."""
  for lock in glob.glob(os.path.join(tempfile.gettempdir(), f"{_PREFIX}*", _LOCK)):
    # Another's, or alive (BlockingIOError), or just removed.
    with contextlib.suppress(OSError), open(lock) as file:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      shutil.rmtree(os.path.dirname(lock), ignore_errors=True)


@functools.cache
def temporary_dir() -> str:
  """Makes this process's scratch folder, and returns it; removed when the process ends.

  Temporary files go there too: Model Garden makes folders for checkpoints that nobody
  removes.
  """
  _remove_abandoned()
  folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{cluster.rank(os.environ)}.")
  lock = os.open(os.path.join(folder, _LOCK), os.O_WRONLY | os.O_CREAT)
  fcntl.flock(lock, fcntl.LOCK_EX)
  tempfile.tempdir = folder
  owner = os.getpid()

  def remove() -> None:
    if os.getpid() == owner:  # not where a forked child ends
      shutil.rmtree(folder, ignore_errors=True)

  atexit.register(remove)
  return folder


def redirect_non_chief() -> None:
  """On ranks other than 0: points `--model_dir` to the scratch folder, and is quiet.

  Their standard output, which repeats rank 0's, is dropped; warnings and errors go to
  standard error and are not.
  """
  if cluster.rank(os.environ) == 0:
    return
  if flags.FLAGS.is_parsed() and "model_dir" in flags.FLAGS:
    flags.FLAGS.model_dir = os.path.join(temporary_dir(), "model")
  if logging.get_verbosity() > logging.WARNING:
    logging.set_verbosity(logging.WARNING)
  _drop_standard_output()


@functools.cache
def _drop_standard_output() -> None:
  sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends


@functools.cache
def install() -> None:
  """Calls `redirect_non_chief` when gin has been parsed.

  In Model Garden's drivers that is before they read `--model_dir`.
  """

  @gin.config.register_finalize_hook
  def hook(config: dict) -> None:
    del config  # binds nothing
    if joins_ranks():
      redirect_non_chief()
