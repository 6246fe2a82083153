"""Trains MobileNetV2 on real handwritten digits, evaluates, exports, shows the result.

  make quickstart

Every step is a command that you can give yourself, printed before it runs: a folder of
images becomes TFRecords, Model Garden's own driver trains on them, the averaged weights
are exported as SavedModel and TFLite, and both are checked in a process of their own.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from mnv2_hpu.cli import main as cli_main
from mnv2_hpu.cli import process
from mnv2_hpu.configs import gin_files
from mnv2_hpu.data_preparation import digits
from mnv2_hpu.errors import UserError

_OUTPUT_DIR = flags.DEFINE_string(
  "output_dir", "build/quickstart", "Folder for everything that is made."
)
_TRAIN_EPOCHS = flags.DEFINE_float(
  "train_epochs", None, "Length of the training; the gin file's if not given."
)

# What an earlier run left; nothing else in the folder is touched.
_PARTS = ("images", "tfrecords", "model", "export")
_FILES = ("metrics.json", "report.html", "model.tflite", "saved_model")


def _run(*command: str) -> None:
  """Runs a command of this project as the user would, showing it.

  Raises:
    UserError: if it fails; its own message stands above.
  """
  print(f"\n$ {shlex.join(('python', *command))}", flush=True)
  done = subprocess.run(
    [sys.executable, *command], env=process.environment(os.environ), check=False
  )
  if done.returncode:
    raise UserError(
      f"the step above ended with code {done.returncode}; what it printed says why."
    )


def _prepare_images(output_dir: Path) -> None:
  counts = digits.write_digits(str(output_dir / "images"))
  print(f"images: {counts} (scikit-learn's load_digits) in {output_dir / 'images'}")


def _prepare_records(output_dir: Path) -> None:
  _run(
    "-m",
    "mnv2_hpu.cli.prepare_data",
    "--source=image_folder",
    f"--input_dir={output_dir / 'images'}",
    f"--output_dir={output_dir / 'tfrecords'}",
  )


def _train(output_dir: Path) -> None:
  bindings = [f"--gin_params=DATA_DIR = '{output_dir / 'tfrecords'}'"]
  if _TRAIN_EPOCHS.value is not None:
    epochs = _TRAIN_EPOCHS.value
    bindings.append(f"--gin_params=mobilenet_v2_classification.train_epochs = {epochs}")
  _run(
    "-m",
    "official.vision.train",
    "--experiment=mobilenet_v2_classification",
    f"--gin_file={gin_files.path('digits.gin')}",
    *bindings,
    "--mode=train_and_eval",
    f"--model_dir={output_dir / 'model'}",
  )


def _export(output_dir: Path) -> None:
  _run(
    "-m",
    "mnv2_hpu.cli.export",
    f"--model_dir={output_dir / 'model'}",
    f"--export_dir={output_dir / 'export'}",
  )


def _report(output_dir: Path) -> None:
  _run(
    "-m",
    "mnv2_hpu.cli.report",
    f"--model_dir={output_dir / 'model'}",
    f"--export_dir={output_dir / 'export'}",
    f"--output_dir={output_dir}",
  )
  for name in ("saved_model", "model.tflite"):
    os.replace(output_dir / "export" / name, output_dir / name)


STEPS: tuple[tuple[str, Callable[[Path], None]], ...] = (
  ("images", _prepare_images),
  ("TFRecords", _prepare_records),
  ("training", _train),
  ("export", _export),
  ("report", _report),
)


def _clean(output_dir: Path) -> None:
  for name in (*_PARTS, *_FILES):
    path = output_dir / name
    if path.is_dir():
      shutil.rmtree(path)
    else:
      path.unlink(missing_ok=True)


def _table(output_dir: Path, seconds: dict[str, float]) -> str:
  metrics = json.loads((output_dir / "metrics.json").read_text())
  rows = [
    ("top-1, averaged weights", f"{metrics['top1']:.2%}"),
    ("top-5, averaged weights", f"{metrics['top5']:.2%}"),
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


def main(argv: Sequence[str]) -> int:
  """Runs the steps, each timed, and prints the table."""
  del argv
  output_dir = Path(_OUTPUT_DIR.value)
  _clean(output_dir)
  output_dir.mkdir(parents=True, exist_ok=True)
  seconds = {}
  for name, step in STEPS:
    start = time.monotonic()
    step(output_dir)
    seconds[name] = time.monotonic() - start
  print(f"\n{_table(output_dir, seconds)}")
  return 0


def entry_point() -> None:
  """The console script `mnv2-quickstart`."""
  cli_main.run(main)


if __name__ == "__main__":
  entry_point()
