"""Model Garden's driver with a fault at a chosen moment: a program for `Programs`.

The first argument is `fault:step`; the others are the driver's. What is patched only
says when; the fault itself is real: the process kills itself with SIGKILL. The network
is that of `helpers_small_network`.
"""

import errno
import functools
import os
import runpy
import signal
import sys

import helpers_small_network
import tensorflow as tf
from tensorflow.python.ops import gen_io_ops


def _die():
  os.kill(os.getpid(), signal.SIGKILL)


def _before(owner, name, is_time, action=_die):
  """Calls `action` before a method of `owner` when `is_time(self, *args)`."""
  method = getattr(owner, name)

  def patched(self, *args, **kwargs):
    if is_time(self, *args):
      action()
    return method(self, *args, **kwargs)

  setattr(owner, name, patched)


def _fill(folder):
  with open(os.path.join(folder, "filler"), "wb", buffering=0) as file:
    for size in (1 << 20, 1 << 12, 1):
      try:
        while file.write(bytes(size)):
          pass
      except OSError as error:
        if error.errno != errno.ENOSPC:
          raise


def _between_data_and_index(prefix):
  """Calls `_die` when the tensors of a checkpoint lie in its unfinished folder."""
  merge = gen_io_ops.merge_v2_checkpoints

  def patched(checkpoint_prefixes, destination_prefix, **kwargs):
    if prefix in str(destination_prefix):
      assert os.listdir(f"{prefix}_temp")
      _die()
    return merge(checkpoint_prefixes, destination_prefix, **kwargs)

  gen_io_ops.merge_v2_checkpoints = patched


def _install(fault, step, model_dir):
  from mnv2_hpu.core import actions
  from mnv2_hpu.core import trainer as trainer_module

  trainer = trainer_module.Trainer

  if fault == "stepping":
    _before(trainer, "train_loop_end", lambda self: self._step() >= step)
  elif fault == "evaluating":
    _before(trainer, "eval_reduce", lambda self, *_: self._step() >= step)
  elif fault == "saving":
    _between_data_and_index(os.path.join(model_dir, f"ckpt-{step}"))
  elif fault == "listing":
    _before(
      tf.train.CheckpointManager,
      "_record_state",
      lambda self: self.latest_checkpoint.endswith(f"ckpt-{step}"),
    )
  elif fault == "terminated":
    ask = functools.partial(os.kill, os.getpid(), signal.SIGTERM)
    asked: list[int] = []  # once: a second SIGTERM ends the process at once

    def is_time(self, *_):
      asked.append(self._step())
      return asked.count(step) == 1 and asked[-1] == step

    point = "eval_reduce" if step == 4 else "train_loop_end"
    _before(trainer, point, is_time, ask)
  elif fault == "disk_full":
    fill = functools.partial(_fill, model_dir)
    _before(trainer, "train_loop_end", lambda self: self._step() == step, fill)
  elif fault == "noting_the_best":
    _before(
      actions.SaveBestCheckpoint,
      "_write_metrics",
      lambda self, logs: int(self._step.numpy()) == step,
    )
  else:
    raise ValueError(fault)


def main():
  """Runs the driver."""
  fault, _, step = sys.argv.pop(1).partition(":")
  (model_dir,) = [arg[12:] for arg in sys.argv if arg.startswith("--model_dir=")]
  _install(fault, int(step), model_dir)
  sys.argv[0] = "official.vision.train"
  helpers_small_network.install()
  runpy.run_module("official.vision.train", run_name="__main__", alter_sys=True)


main()
