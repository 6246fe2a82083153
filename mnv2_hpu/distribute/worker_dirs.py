"""Rank 0 alone writes: the others get a temporary directory, and no standard output.

Every rank takes part in saving, because reading a variable may reduce it over the
ranks. What the non-chief ranks save goes to a temporary directory that exists as long
as the process. They neither read nor write the run's model folder.

All of this is for trainers that join ranks; under others nothing is changed.
"""

import functools
import os
import subprocess
import sys
import tempfile

import gin
from absl import logging

from mnv2_hpu import cluster, driver_flags

_TRAINER = "create_trainer.trainer_cls"  # Model Garden's
# Waits for the end of its standard input.
_REMOVE = 'read -r _; exec rm -rf -- "$0"'


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


@functools.cache
def temporary_dir() -> str:
  """Makes this process's temporary directory, and returns it.

  Temporary files go there too: Model Garden makes folders for checkpoints that nobody
  removes. A process of its own removes it when this one ends, by SIGKILL or `os._exit`
  too: the system then closes the pipe between them.
  """
  path = tempfile.mkdtemp(prefix=f"mnv2_hpu.rank{cluster.rank(os.environ)}.")
  read_end, _ = os.pipe()  # the other end stays open as long as this process lives
  subprocess.Popen(
    ["sh", "-c", _REMOVE, path],
    stdin=read_end,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    start_new_session=True,  # a launcher may send its signals to the group
  )
  os.close(read_end)
  tempfile.tempdir = path
  return path


def redirect_non_chief() -> None:
  """On non-chief ranks: points `--model_dir` to the temporary directory.

  Their standard output, which repeats rank 0's, is dropped; warnings and errors go to
  standard error and are not.
  """
  if cluster.rank(os.environ) == 0:
    return
  driver_flags.override("model_dir", os.path.join(temporary_dir(), "model"))
  if logging.get_verbosity() > logging.WARNING:
    logging.set_verbosity(logging.WARNING)
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
