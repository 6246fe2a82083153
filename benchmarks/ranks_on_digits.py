"""The digits on 1, 2 and 4 ranks, and on two ranks with the reference's defects.

  make quickstart   # prepares the digits
  .venv/bin/python benchmarks/ranks_on_digits.py --seeds=3

Every run sees the same number of images in global batches of 64. The whole runs go
through `mnv2-launch` and `mnv2-train`. The defective one starts its two ranks from
weights of their own (the broadcast is built and never run, nothing checks them) and has
both write checkpoints of one name into one folder; it is evaluated on each rank by
itself, for a mean over ranks hides the defect. Writes docs/ranks_on_digits.png and
prints the table of docs/multi_device.md.
"""

import contextlib
import json
import os
import shutil
import statistics
import sys
from pathlib import Path
from unittest import mock

from mnv2_hpu import tf_environment

tf_environment.configure()

import gin
import matplotlib as mpl
import numpy as np
import tensorflow as tf
from absl import app, flags
from matplotlib import pyplot as plt
from official.core import task_factory, train_lib

import mnv2_hpu
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import gin_files, image_classification
from mnv2_hpu.configs.recipe import configured_recipe
from mnv2_hpu.distribute import launcher, rank_check, ranks
from mnv2_hpu.progress import Progress
from mnv2_hpu.reporting import curves

# The hook that takes the broadcast away is the one of the tests.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import helpers_rank_cases

_DATA_DIR = flags.DEFINE_string("data_dir", "build/quickstart/tfrecords", "Digits.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs on one rank.")
_EPOCHS = flags.DEFINE_integer("epochs", 30, "Of each run.")
_RUNS = flags.DEFINE_string("runs", "build/ranks_on_digits", "Folder; resumed from.")
_FIGURE_PATH = flags.DEFINE_string("figure_path", "docs/ranks_on_digits.png", "File.")
_DEFECTIVE = flags.DEFINE_string(
  "defective_rank", None, "Used by the benchmark itself."
)

GLOBAL_BATCH = 64
EVALUATIONS = 10
RANKS = (2, 4)


def _bindings(num_ranks, seed):
  """What a run changes in gin/digits.gin: the batch of a rank, not the rate."""
  recipe = "mobilenet_v2_classification"
  strategy = "one_device" if num_ranks == 1 else "multi_worker_mirrored"
  return [
    f"DATA_DIR = '{os.path.abspath(_DATA_DIR.value)}'",
    f"{recipe}.seed = {seed}",
    f"{recipe}.batch_size = {GLOBAL_BATCH // num_ranks}",
    f"{recipe}.learning_rate_scaling = 'none'",
    f"{recipe}.distribution_strategy = '{strategy}'",
    f"{recipe}.train_epochs = {_EPOCHS.value}",
    f"{recipe}.eval_every_epochs = {_EPOCHS.value / EVALUATIONS}",
  ]


def _launch(command, num_ranks, log):
  """Runs a command on so many ranks; what they say goes to a file."""
  command = ["bash", "-c", 'exec "$@" >> "$0" 2>&1', str(log), *command]
  processes = num_ranks if num_ranks > 1 else 0
  code = launcher.run(launcher.Options(tuple(command), processes))
  if code:
    raise RuntimeError(f"ended with {code}:\n{log.read_text()[-3000:]}")


def _whole(folder, num_ranks, seed):
  """Returns the curve of a run by the driver: (step, raw, averaged accuracy)."""
  run = folder / f"{num_ranks}-{seed}"
  command = [sys.executable, "-m", "mnv2_hpu.cli.train"]
  command += [f"--gin_file={gin_files.path('digits.gin')}", f"--model_dir={run}"]
  command += [f"--gin_params={binding}" for binding in _bindings(num_ranks, seed)]
  _launch(command, num_ranks, folder / f"{num_ranks}-{seed}.log")
  scalars = curves.read_scalars(str(run / "validation"))
  return [
    (step, raw, averaged)
    for (step, raw), (_, averaged) in zip(
      scalars["raw_accuracy"], scalars["accuracy"], strict=True
    )
  ]


class _OwnAccuracy:
  """A train action: the accuracy of this rank's weights, and of those in the folder.

  Both ranks write a checkpoint of the same name at the same time before each reads it.
  """

  def __init__(self, strategy, task, params, folder):
    self._strategy, self._folder = strategy, folder
    self._plain = task.build_model()  # outside the strategy: nothing is averaged
    self._held_out = list(task.build_inputs(params.task.validation_data))
    self._interval = params.trainer.validation_interval
    self.trained = None
    self.curve = []
    self.collisions = []

  def _accuracy(self):
    right = total = 0
    for images, labels in self._held_out:
      hits = np.argmax(self._plain(images, training=False), -1) == labels
      right, total = right + np.sum(hits), total + np.sum(labels >= 0)  # -1: padding
    return float(right / total)

  def __call__(self, output):
    del output
    step = int(ranks.local_value(self._strategy, self.trained.global_step))
    if step % self._interval:
      return
    trained = self.trained.model.variables
    for variable, own in zip(self._plain.variables, trained, strict=True):
      variable.assign(ranks.local_value(self._strategy, own))
    own = self._accuracy()
    path = str(self._folder / f"ckpt-{step}")
    checkpoint = tf.train.Checkpoint(model=self._plain)
    self._wait_for_each_other()
    with self._noting_collisions(f"step {step}, writing"):
      checkpoint.write(path)
    self._wait_for_each_other()
    in_folder = float("nan")
    with self._noting_collisions(f"step {step}, reading"):
      checkpoint.read(path).assert_consumed()
      in_folder = self._accuracy()
    self._wait_for_each_other()
    self.curve.append((step, own, in_folder))

  def _wait_for_each_other(self):
    ranks.gather(self._strategy, np.zeros(1, np.int64))

  @contextlib.contextmanager
  def _noting_collisions(self, what):
    """Counts what the two ranks destroy for each other, and goes on."""
    try:
      yield
    except (tf.errors.OpError, ValueError) as error:
      self.collisions.append(f"{what}: {error}".splitlines()[0])


def _be_defective_rank(folder):
  """One of two ranks that average gradients and nothing else."""
  strategy = tf.distribute.MultiWorkerMirroredStrategy()
  rank = ranks.rank(strategy)
  params = _experiment(_bindings(2, seed=0))
  model_dir = str(folder / f"rank{rank}")
  task = task_factory.get_task(params.task, logging_dir=model_dir)
  note = _OwnAccuracy(strategy, task, params, folder)
  keras.utils.set_random_seed(rank)
  with (
    helpers_rank_cases.without_broadcast(),
    mock.patch.object(rank_check, "check"),
    mock.patch.object(keras.utils, "set_random_seed"),  # the task's, same on all ranks
  ):
    runner = train_lib.OrbitExperimentRunner(
      strategy, task, "train", params, model_dir, train_actions=[note]
    )
    note.trained = runner.trainer
    runner.run()
  found = {"curve": note.curve, "collisions": note.collisions}
  (folder / f"rank{rank}.json").write_text(json.dumps(found))


def _experiment(bindings):
  mnv2_hpu.register()
  gin.parse_config_files_and_bindings([gin_files.path("digits.gin")], bindings)
  return image_classification.experiment(configured_recipe())


def _defective(folder):
  """Returns what each rank found: curve (step, own, the folder's) and collisions."""
  folder = folder / "defective"
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  command = [sys.executable, __file__, f"--defective_rank={folder}"]
  command += [f"--data_dir={_DATA_DIR.value}", f"--epochs={_EPOCHS.value}"]
  _launch(command, 2, folder / "log")
  return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def _column(curve, number):
  return [point[0] for point in curve], [point[number] for point in curve]


def _draw(runs, defective):
  figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), dpi=120)
  for color, (num_ranks, found) in zip(("C0", "C1", "C2"), runs.items(), strict=True):
    for number, curve in enumerate(found):
      label = f"{num_ranks} rank{'s' * (num_ranks > 1)}" if number == 0 else None
      left.plot(*_column(curve, 2), color=color, marker=".", label=label)
  left.set(title="one training job (EMA weights)", ylim=(0.9, 1.0))
  left.set(ylabel="top-1, held-out digits")
  right.plot(*_column(runs[2][0], 1), color="C1", marker=".", label="2 ranks, whole")
  curves_found = [found["curve"] for found in defective]
  for rank, curve in enumerate(curves_found):
    right.plot(*_column(curve, 1), color=f"C{3 + rank}", label=f"rank {rank}'s weights")
  right.plot(*_column(curves_found[0], 2), "k.", label="what the common folder holds")
  right.set(title="no broadcast, both ranks write (raw weights)", ylim=(0, 1.02))
  for axes in (left, right):
    axes.set(xlabel="step")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
  figure.tight_layout()
  figure.savefig(_FIGURE_PATH.value)


def _print_table(runs, defective):
  print("| run | raw | averaged |\n|---|---|---|")
  for num_ranks, found in runs.items():
    cells = []
    for number in (1, 2):
      values = [curve[-1][number] for curve in found]
      spread = f" ({min(values):.2%} to {max(values):.2%})" if len(values) > 1 else ""
      cells.append(f"{statistics.mean(values):.2%}{spread}")
    batch = GLOBAL_BATCH // num_ranks
    print(f"| {num_ranks} x {batch}, {len(found)} seed(s) | {' | '.join(cells)} |")
  for rank, found in enumerate(defective):
    print(f"| no broadcast: rank {rank} | {found['curve'][-1][1]:.2%} | |")
  for rank, found in enumerate(defective):
    for line in found["collisions"]:
      print(f"rank {rank}, {line}")


def main(argv):
  """Runs everything; prints the table."""
  del argv
  if _DEFECTIVE.value:
    _be_defective_rank(Path(_DEFECTIVE.value))
    return
  mpl.use("Agg")
  jobs = [(1, seed) for seed in range(_SEEDS.value)] + [(n, 0) for n in RANKS]
  runs = {num_ranks: [] for num_ranks, _ in jobs}
  folder = Path(_RUNS.value).resolve()
  folder.mkdir(parents=True, exist_ok=True)
  with Progress(len(jobs) + 1, "run") as progress:
    for done, (num_ranks, seed) in enumerate(jobs, start=1):
      runs[num_ranks].append(_whole(folder, num_ranks, seed))
      progress.update_to(done)
    defective = _defective(folder)
    progress.update_to(len(jobs) + 1)
  _draw(runs, defective)
  _print_table(runs, defective)


if __name__ == "__main__":
  app.run(main)
