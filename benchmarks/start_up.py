"""Seconds until a command answers, and until a training has done its first step.

Each measurement is a process of its own, and they take turns (`turns`). The first step
is that of MobileNetV2 1.0 at 224 px, batch 8, on records that this script makes, by
`mnv2-train` and by Model Garden's driver with its own experiment.

  python benchmarks/start_up.py --rounds=5
"""

import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import photographs
import turns
from absl import app, flags

_ROUNDS = flags.DEFINE_integer(
  "rounds", 5, "Times that each is measured.", lower_bound=1
)

BATCH, CLASSES, IMAGES = 8, 1001, 64
COMMANDS = (
  *("doctor", "evaluate", "export", "import_checkpoint", "launch", "predict"),
  *("prepare_data", "quickstart", "report", "train", "verify_data"),
)
FIRST_STEP = "step:      1"  # what orbit prints


def _seconds(arguments, until=None):
  """Seconds until a process ends, or has printed a text."""
  environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1"}
  start = time.perf_counter()
  with subprocess.Popen(
    [sys.executable, "-W", "ignore", "-m", *arguments],
    env=environ,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  ) as process:
    output = []
    for line in process.stdout:
      output.append(line)
      if until and until in line:
        seconds = time.perf_counter() - start
        process.kill()
        return seconds
  if until or process.returncode:
    sys.exit(f"{arguments} ended with {process.returncode}:\n{''.join(output[-20:])}")
  return time.perf_counter() - start


def _ours(records, model_dir):
  values = {
    "image_size": 224,
    "batch_size": BATCH,
    "num_train_examples": IMAGES,
    "num_validation_examples": IMAGES,
    "validation_files": "'train-*'",
    "train_epochs": 1,
    "log_every_steps": 1,
    "compute_dtype": "'float32'",
  }
  return [
    *("mnv2_hpu.cli.train", "--gin_file=gin/imagenet.gin", "--mode=train"),
    f"--model_dir={model_dir}",
    f"--gin_params=DATA_DIR = '{records}'",
    *(f"--gin_params=mobilenet_v2_classification.{k} = {v}" for k, v in values.items()),
  ]


def _stock(records, model_dir):
  values = [
    "runtime.distribution_strategy=one_device",
    "runtime.mixed_precision_dtype=float32",
    f"task.train_data.input_path={records}/train-*",
    f"task.train_data.global_batch_size={BATCH}",
    "trainer.train_steps=8",
    "trainer.steps_per_loop=1",
    "trainer.summary_interval=1",
  ]
  return [
    *("official.vision.train", "--experiment=mobilenet_imagenet", "--mode=train"),
    f"--model_dir={model_dir}",
    f"--params_override={','.join(values)}",
  ]


def main(argv):
  """Measures, prints a table and keeps it."""
  del argv
  measures = {
    (f"{command} --help", "mnv2_hpu"): functools.partial(
      _seconds, [f"mnv2_hpu.cli.{command}", "--help"]
    )
    for command in COMMANDS
  }
  measures["doctor", "mnv2_hpu"] = lambda: _seconds(["mnv2_hpu.cli.doctor"])
  with tempfile.TemporaryDirectory() as folder:
    records = Path(folder, "records")
    records.mkdir()
    photographs.write_records(records, IMAGES, CLASSES)

    def first_step(arguments):
      model_dir = tempfile.mkdtemp(dir=folder)
      return _seconds(arguments(records, model_dir), FIRST_STEP)

    for name, of in (("mnv2-train", _ours), ("Model Garden's driver", _stock)):
      measures["first training step", name] = functools.partial(first_step, of)
    values = turns.take_turns(measures, _ROUNDS.value, warm_up=False)
  turns.publish(
    "start_up",
    "Start: until a command has answered, or trained MobileNetV2 1.0 by one step",
    "seconds",
    values,
    more_is_better=False,
  )


if __name__ == "__main__":
  app.run(main)
