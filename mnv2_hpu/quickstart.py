"""The quickstart's steps: each a command that a user can give, shown before it runs.

All that the commands print goes to a log; on the screen are progress and results.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from mnv2_hpu import tf_environment
from mnv2_hpu.configs import gin_files
from mnv2_hpu.data_preparation import digits
from mnv2_hpu.errors import UserError

# What an earlier run left; nothing else in the folder is touched.
_FOLDERS = ("images", "tfrecords", "model", "export", "saved_model")
_FILES = ("metrics.json", "report.html", "model.tflite", "export.json")
LOG_FILE = "quickstart.log"

# Progress, of which a command writes a line each ten seconds, and results.
_SHOWN = re.compile(
  r"[\w ]+: [\d,]+/[\d,]+ \w+ \(\d+%\)|loading TensorFlow|exported |checked |wrote |"
  r"warning: |  (format|saved_model|tflite) "
)
_LAST_LINES = 20  # shown of a step that failed


def run(output_dir: Path, train_epochs: float | None = None) -> dict[str, float]:
  """Trains on the digits, exports and reports; returns the seconds of each step.

  Args:
    output_dir: Folder for everything that is made.
    train_epochs: Epochs of the training; the gin file's if None.

  Raises:
    UserError: If a step fails.
  """
  output_dir.mkdir(parents=True, exist_ok=True)
  for name in _FOLDERS:
    shutil.rmtree(output_dir / name, ignore_errors=True)
  for name in _FILES:
    (output_dir / name).unlink(missing_ok=True)
  log_path = output_dir / LOG_FILE
  print(
    "Each step loads TensorFlow first, which takes about 10 seconds. "
    f"All that is printed: {log_path}",
    flush=True,
  )
  seconds: dict[str, float] = {}
  start = time.monotonic()
  images = output_dir / "images"
  counts = digits.write_digits(str(images))
  print(f"images: {counts} (scikit-learn's load_digits) in {images}")
  seconds["images"] = time.monotonic() - start
  with log_path.open("w", encoding="utf-8") as log:
    for name, command in _commands(output_dir, train_epochs).items():
      start = time.monotonic()
      _run(log, "-m", *command)
      seconds[name] = time.monotonic() - start
  for name in ("saved_model", "model.tflite"):
    shutil.move(output_dir / "export" / name, output_dir / name)
  shutil.copy(output_dir / "export" / "export.json", output_dir)
  return seconds


def _commands(
  output_dir: Path, train_epochs: float | None
) -> dict[str, tuple[str, ...]]:
  records, model = output_dir / "tfrecords", output_dir / "model"
  bindings = [f"DATA_DIR = '{records}'"]
  if train_epochs is not None:
    bindings.append(f"mobilenet_v2_classification.train_epochs = {train_epochs}")
  run_flags = (f"--model_dir={model}", f"--export_dir={output_dir / 'export'}")
  return {
    "TFRecords": (
      "mnv2_hpu.cli.prepare_data",
      f"--input_dir={output_dir / 'images'}",
      f"--output_dir={records}",
    ),
    "training": (
      "official.vision.train",
      "--experiment=mobilenet_v2_classification",
      f"--gin_file={gin_files.path('digits.gin')}",
      *(f"--gin_params={binding}" for binding in bindings),
      "--mode=train_and_eval",
      f"--model_dir={model}",
    ),
    "export": ("mnv2_hpu.cli.export", *run_flags),
    "report": ("mnv2_hpu.cli.report", *run_flags, f"--output_dir={output_dir}"),
  }


def _run(log: TextIO, *command: str) -> None:
  """Runs a step; all of its output goes to the log, progress and results are shown."""
  line = f"\n$ {shlex.join(('python', *command))}"
  print(line, flush=True)
  log.write(f"{line}\n")
  environ = tf_environment.with_defaults(os.environ) | {"PYTHONUNBUFFERED": "1"}
  last: deque[str] = deque(maxlen=_LAST_LINES)
  with subprocess.Popen(
    [sys.executable, *command],
    env=environ,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    errors="replace",
  ) as process:
    for text in process.stdout or ():
      log.write(text)
      log.flush()
      last.append(text)
      if _SHOWN.match(text):
        print(f"  {text}", end="", flush=True)
  if process.returncode:
    raise UserError(
      f"the step above ended with code {process.returncode}; its last lines:\n"
      f"{''.join(last)}All that it printed: {log.name}"
    )


def summary(output_dir: Path, seconds: Mapping[str, float]) -> str:
  """Returns the table to print: accuracies, sizes, seconds, the report's path."""
  metrics = json.loads((output_dir / "metrics.json").read_text())
  rows = [
    ("top-1, EMA weights", f"{metrics['top1']:.2%}"),
    ("top-5, EMA weights", f"{metrics['top5']:.2%}"),
    ("top-1, raw weights", f"{metrics['top1_raw']:.2%}"),
    ("top-1, SavedModel reloaded", f"{metrics['top1_saved_model']:.2%}"),
    ("top-1, TFLite reloaded", f"{metrics['top1_tflite']:.2%}"),
    ("held-out images", f"{metrics['num_examples']}"),
    ("training steps", f"{metrics['train_steps']:,}"),
    *((f"{name}, seconds", f"{value:.0f}") for name, value in seconds.items()),
    ("report", str(output_dir / "report.html")),
  ]
  width = max(len(name) for name, _ in rows)
  return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
