"""Runs many programs from one process that has imported TensorFlow once.

Importing Model Garden takes 15 seconds; the programs under test take two. This server
imports it, runs no operation, and forks for each request: the child is a process of
its own that runs the module as `python -m` would. A request is a line of JSON with
"module", "args", "cwd", "env", "out", "timeout"; an answer one with "returncode" and
"cpu_seconds".
"""

import json
import os
import runpy
import signal
import sys

TRACED = {
  "_swap",
  "_update_pairs",
  "build_losses",
  "eval_step",
  "inference_step",
  "logits_and_losses",
  "next_eval_inputs",
  "next_train_inputs",
  "predictions_and_loss",
  "process_metrics",
  "train_step",
  "update_average",
  "validation_step",
}


def _preload():
  # Not official.vision.train: it defines its flags when it runs as a program.
  import official.core.train_lib
  import official.vision.registry_imports
  import official.vision.utils.summary_manager  # noqa: F401
  import tensorflow  # noqa: F401

  import mnv2_hpu.registry_imports  # noqa: F401


def _convert_steps():
  """Has AutoGraph rewrite, once for all programs, what each training traces."""
  from official.core import base_task, base_trainer
  from official.vision.tasks import image_classification as stock
  from tensorflow.python.autograph.core import converter
  from tensorflow.python.autograph.impl import api

  from mnv2_hpu.optimization import exponential_moving_average
  from mnv2_hpu.tasks import (
    image_classification,
    object_detection,
    semantic_segmentation,
    training_task,
  )

  # What a `tf.function` without options has for the functions that it calls.
  options = converter.ConversionOptions(recursive=True, optional_features=())
  for owner in (
    base_task.Task,
    base_trainer.Trainer,
    stock.ImageClassificationTask,
    training_task.TrainingTask,
    image_classification.ImageClassificationTask,
    object_detection.ObjectDetectionTask,
    semantic_segmentation.SemanticSegmentationTask,
    exponential_moving_average.ExponentialMovingAverage,
  ):
    for name in vars(owner).keys() & TRACED:
      api._convert_actual(vars(owner)[name], converter.ProgramContext(options))


def _child(request):
  out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(out, 1)
  os.dup2(out, 2)
  os.chdir(request["cwd"])
  os.environ.update(request["env"])
  sys.argv = [request["module"], *request["args"]]
  signal.alarm(request["timeout"])
  code = 1
  try:
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    code = 0
  except SystemExit as stop:
    if isinstance(stop.code, str):
      print(stop.code, file=sys.stderr)
    code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
  except BaseException:
    sys.excepthook(*sys.exc_info())
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def main():
  """Serves requests until standard input ends."""
  _preload()
  _convert_steps()
  print("ready", flush=True)
  for line in sys.stdin:
    child = os.fork()
    if child == 0:
      _child(json.loads(line))
    _, status, usage = os.wait4(child, 0)
    answer = {
      "returncode": os.waitstatus_to_exitcode(status),
      "cpu_seconds": usage.ru_utime + usage.ru_stime,
    }
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
  main()
