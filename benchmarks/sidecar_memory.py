"""Memory of the sidecar over many checkpoints, and its seconds for each.

Copies the newest checkpoint of a finished run under many steps into a temporary folder,
and lets `mnv2-evaluate --continuous` evaluate all of them.

  python benchmarks/sidecar_memory.py --model_dir=build/quickstart/model
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from absl import app, flags

from mnv2_hpu.core import run_record
from mnv2_hpu.evaluation import sidecar

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Run to copy.", required=True)
_CHECKPOINTS = flags.DEFINE_integer("checkpoints", 60, "Checkpoints to evaluate.")


def _copy_run(model_dir, target, count):
  """Makes a finished run with so many checkpoints, all with the same content."""
  newest = tf.train.latest_checkpoint(model_dir)
  names = [f"ckpt-{step}" for step in range(1, count + 1)]
  for name in names:
    for path in Path(newest).parent.glob(f"{Path(newest).name}.*"):
      shutil.copy(path, target / f"{name}{path.suffix}")
  lines = [f'model_checkpoint_path: "{names[-1]}"']
  lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
  (target / "checkpoint").write_text("\n".join(lines))
  shutil.copy(os.path.join(model_dir, run_record.FILE), target)
  run_record.write_finished(str(target), count)


def _resident_mib(pid):
  for line in Path(f"/proc/{pid}/status").read_text().splitlines():
    if line.startswith("VmRSS:"):
      return int(line.split()[1]) / 1024
  return 0.0


def main(argv):
  """Measures and prints a table."""
  del argv
  with tempfile.TemporaryDirectory() as work:
    target = Path(work) / "run"
    target.mkdir()
    _copy_run(_MODEL_DIR.value, target, _CHECKPOINTS.value)
    log = target / sidecar.LOG_FILE
    command = [sys.executable, "-m", "mnv2_hpu.cli.evaluate", "--continuous"]
    resident = {}
    with subprocess.Popen([*command, f"--model_dir={target}"]) as process:
      while process.poll() is None:
        done = len(log.read_text().splitlines()) if log.exists() else 0
        if done and done not in resident:
          resident[done] = _resident_mib(process.pid)
        time.sleep(0.05)
    if process.returncode:
      raise RuntimeError(f"the sidecar ended with {process.returncode}")
    seconds = [json.loads(line)["seconds"] for line in log.read_text().splitlines()]
  print(f"{platform.machine()}, Python {platform.python_version()}, {tf.__version__}")
  print(f"seconds of an evaluation: {statistics.median(seconds):.2f} (median)")
  for done in sorted(resident):
    if done in (1, 2, 5) or done % 10 == 0:
      print(f"  after {done:3} checkpoints: {resident[done]:,.0f} MiB")


if __name__ == "__main__":
  app.run(main)
