"""Images per second of several processes on this machine, all-reduce included.

`mnv2-launch --np=N` with MultiWorkerMirrored against one process with all cores, at the
same global batch: MobileNetV2 1.0, 224 px, JPEGs of ImageNet's sizes. Each measurement
is a training of its own, and they take turns (`turns`); the rate is that of the last
steps. With `--buckets_mb` two processes train by Horovod, whose buckets have those
sizes: one that is full is reduced while the backward pass goes on.

  python benchmarks/processes.py --rounds=3
  python benchmarks/processes.py --rounds=3 --buckets_mb=64,4,2
"""

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import photographs
import turns
from absl import app, flags

_ROUNDS = flags.DEFINE_integer(
  "rounds", 3, "Times that each is measured.", lower_bound=1
)
_PROCESSES = flags.DEFINE_list("processes", ["2", "1", "4"], "Numbers to compare.")
_BUCKETS = flags.DEFINE_list("buckets_mb", [], "Sizes to compare instead, in MiB.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images of all processes a step.")

IMAGES, CLASSES = 256, 1001
WARM_UP, STEPS = 4, 12  # steps of a loop; the first loop traces, the last one counts


def _rate(processes, bucket_mb, records, work):
  """Trains, and returns images per second of all processes in the last loop."""
  batch, model_dir = _BATCH_SIZE.value, tempfile.mkdtemp(dir=work)
  values = {
    "batch_size": batch // processes,
    "num_train_examples": IMAGES,
    "num_validation_examples": IMAGES,
    "validation_files": "'train-*'",
    "train_epochs": (WARM_UP + STEPS) * batch / IMAGES,
    "log_every_steps": WARM_UP,
    "compute_dtype": "'float32'",
    "learning_rate_scaling": "'none'",
  }
  launch = [sys.executable, "-W", "ignore", "-m", "mnv2_hpu.cli.launch"]
  if bucket_mb:
    values["distribution_strategy"] = "'horovod'"
    launch += ["--", "horovodrun", "-np", str(processes)]
  elif processes > 1:
    values["distribution_strategy"] = "'multi_worker_mirrored'"
    launch += [f"--np={processes}", "--"]
  else:
    launch += ["--"]
  command = [
    *launch,
    *(sys.executable, "-W", "ignore", "-m", "mnv2_hpu.cli.train"),
    *("--gin_file=gin/imagenet.gin", "--mode=train"),
    f"--model_dir={model_dir}",
    f"--gin_params=DATA_DIR = '{records}'",
    *(f"--gin_params=mobilenet_v2_classification.{k} = {v}" for k, v in values.items()),
    f"--gin_params=mnv2_hpu.horovod.fusion_threshold_mb = {bucket_mb}",
  ]
  programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
  environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PATH": programs}
  done = subprocess.run(
    command,
    env=environ,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    check=False,
  )
  if done.returncode:
    sys.exit(f"{command} ended with {done.returncode}:\n{done.stdout[-3000:]}")
  from mnv2_hpu.reporting import curves

  by_step = dict(curves.read_scalars(f"{model_dir}/train")["steps_per_second"])
  return batch * by_step[WARM_UP + STEPS]


def main(argv):
  """Measures, prints a table and keeps it."""
  del argv
  with tempfile.TemporaryDirectory() as work:
    records = Path(work, "records")
    records.mkdir()
    photographs.write_records(records, IMAGES, CLASSES)
    cases = {
      ("training", f"processes: {count}"): (int(count), None)
      for count in _PROCESSES.value
    }
    if _BUCKETS.value:
      cases = {
        ("two processes", f"buckets of {size} MiB"): (2, float(size))
        for size in _BUCKETS.value
      }
    measures = {
      case: functools.partial(_rate, *setting, records, work)
      for case, setting in cases.items()
    }
    values = turns.take_turns(measures, _ROUNDS.value, warm_up=False)
  name, title = "processes", "Processes on one machine"
  if _BUCKETS.value:
    name, title = "buckets", "Sizes of Horovod's buckets"
  turns.publish(
    name,
    f"{title}: width 1.0, 224 px, global batch {_BATCH_SIZE.value}",
    "images/s",
    values,
    more_is_better=True,
  )


if __name__ == "__main__":
  app.run(main)
