"""The quickstarts' steps: each a command that a user can give, shown before it runs.

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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TextIO

from mnv2_hpu import tf_environment
from mnv2_hpu.configs import gin_files
from mnv2_hpu.data_preparation import digit_scenes, digits
from mnv2_hpu.errors import UserError


class Quickstart(NamedTuple):
  """One task on handwritten digits.

  Attributes:
    output_dir: Folder for everything that is made, unless another is requested.
    experiment: Model Garden experiment.
    gin_file: Gin file of this package.
    source: `--source` of the preparation.
    write_images: Writes the images into a folder; returns how many, by split.
    images: What they are, for people.
    rows: Rows of the table at the end: text, and name in `metrics.json`.
  """

  output_dir: str
  experiment: str
  gin_file: str
  source: str
  write_images: Callable[[str], Mapping[str, int]]
  images: str
  rows: Mapping[str, str]


def _write_scenes(output_dir: str) -> dict[str, int]:
  return digit_scenes.write_scenes(output_dir, *_NUM_SCENES, size=_SCENE_SIZE)


_NUM_SCENES = (3000, 200)  # to train on, and held out
_SCENE_SIZE = (192, 192)  # pixels
_SCENES = "digits of scikit-learn in cluttered scenes"

QUICKSTARTS = {
  "classification": Quickstart(
    output_dir="build/quickstart",
    experiment="mobilenet_v2_classification",
    gin_file="digits.gin",
    source="image_folder",
    write_images=digits.write_digits,
    images="scikit-learn's load_digits",
    rows={
      "top-1, EMA weights": "top1",
      "top-5, EMA weights": "top5",
      "top-1, raw weights": "top1_raw",
      "top-1, SavedModel reloaded": "top1_saved_model",
      "top-1, TFLite reloaded": "top1_tflite",
    },
  ),
  "detection": Quickstart(
    output_dir="build/quickstart-detection",
    experiment="mobilenet_v2_ssdlite",
    gin_file="digit_boxes.gin",
    source="coco",
    write_images=_write_scenes,
    images=_SCENES,
    rows={
      "mAP at IoU 0.5": "map50",
      "mAP at IoU 0.5 to 0.95": "map",
      "mAP at IoU 0.5, SavedModel": "map50_saved_model",
      "mAP at IoU 0.5, TFLite": "map50_tflite",
    },
  ),
  "segmentation": Quickstart(
    output_dir="build/quickstart-segmentation",
    experiment="mobilenet_v2_deeplabv3plus",
    gin_file="digit_masks.gin",
    source="masks",
    write_images=_write_scenes,
    images=_SCENES,
    rows={
      "mIoU": "miou",
      "pixels of the right class": "pixel_accuracy",
      "mIoU, SavedModel": "miou_saved_model",
      "mIoU, TFLite": "miou_tflite",
    },
  ),
}

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


def run(
  task: str, output_dir: Path, train_epochs: float | None = None
) -> dict[str, float]:
  """Trains on the digits, exports and reports; returns the seconds of each step.

  Args:
    task: One of `QUICKSTARTS`.
    output_dir: Folder for everything that is made.
    train_epochs: Epochs of the training; the gin file's if None.

  Raises:
    UserError: If a step fails.
  """
  quickstart = QUICKSTARTS[task]
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
  counts = quickstart.write_images(str(images))
  print(f"images: {counts} ({quickstart.images}) in {images}")
  seconds["images"] = time.monotonic() - start
  with log_path.open("w", encoding="utf-8") as log:
    for name, command in _commands(quickstart, output_dir, train_epochs).items():
      start = time.monotonic()
      _run(log, "-m", *command)
      seconds[name] = time.monotonic() - start
  for name in ("saved_model", "model.tflite"):
    shutil.move(output_dir / "export" / name, output_dir / name)
  shutil.copy(output_dir / "export" / "export.json", output_dir)
  return seconds


def _commands(
  quickstart: Quickstart, output_dir: Path, train_epochs: float | None
) -> dict[str, tuple[str, ...]]:
  records, model = output_dir / "tfrecords", output_dir / "model"
  bindings = [f"DATA_DIR = '{records}'"]
  if train_epochs is not None:
    bindings.append(f"{quickstart.experiment}.train_epochs = {train_epochs}")
  run_flags = (f"--model_dir={model}", f"--export_dir={output_dir / 'export'}")
  return {
    "TFRecords": (
      "mnv2_hpu.cli.prepare_data",
      f"--source={quickstart.source}",
      f"--input_dir={output_dir / 'images'}",
      f"--output_dir={records}",
    ),
    "training": (
      "official.vision.train",
      f"--experiment={quickstart.experiment}",
      f"--gin_file={gin_files.path(quickstart.gin_file)}",
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


def summary(task: str, output_dir: Path, seconds: Mapping[str, float]) -> str:
  """Returns the table to print: metrics, sizes, seconds, the report's path."""
  metrics = json.loads((output_dir / "metrics.json").read_text())
  rows = [
    *((text, f"{metrics[name]:.2%}") for text, name in QUICKSTARTS[task].rows.items()),
    ("held-out images", f"{metrics.get('num_images', metrics.get('num_examples'))}"),
    ("training steps", f"{metrics['train_steps']:,}"),
    *((f"{name}, seconds", f"{value:.0f}") for name, value in seconds.items()),
    ("report", str(output_dir / "report.html")),
  ]
  width = max(len(name) for name, _ in rows)
  return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
