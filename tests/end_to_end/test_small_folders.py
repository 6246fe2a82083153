"""Folders of a hundred-odd images: learned by the defaults, and fine-tuned."""

import os
import shutil
import subprocess
import sys

import helpers_checkpoint_diff
import helpers_images
import helpers_programs
import pytest

from mnv2_hpu.core import run_record
from mnv2_hpu.data_preparation import digits, prepare
from mnv2_hpu.reporting import curves

pytestmark = pytest.mark.slow

TRAIN = "mnv2_hpu.cli.train"
# Of images of 32 pixels, by a network that is soon traced.
SMALL_IMAGES = {"image_size": 32, "log_every_steps": 2, "eval_batch_size": 50}


def _args(gin_file, records, model_dir, *bindings, **values):
  settings = {**SMALL_IMAGES, **values}
  return [
    "--experiment=mobilenet_v2_classification",
    f"--gin_file=gin/{gin_file}",
    f"--gin_params=DATA_DIR = '{records}'",
    *(f"--gin_params={binding}" for binding in bindings),
    *(
      f"--gin_params=mobilenet_v2_classification.{name} = {value!r}"
      for name, value in settings.items()
    ),
    "--mode=train_and_eval",
    f"--model_dir={model_dir}",
  ]


def _run(programs, module, args):
  done = programs.run("helpers_small_network", module, *args)
  assert done.returncode == 0, done.output[-3000:]
  return done.output


@pytest.fixture(scope="module")
def few_digits(tmp_path_factory):
  """Records of 160 digits to train on, 359 held out."""
  folder = tmp_path_factory.mktemp("few")
  digits.write_digits(str(folder / "images"))
  for label in (folder / "images" / "train").iterdir():
    for path in sorted(label.iterdir())[16:]:
      path.unlink()
  prepare.prepare(
    prepare.PreparationOptions(str(folder / "images"), str(folder / "records"))
  )
  return folder / "records"


# What gin/image_folder.gin held before its values followed from the number of images.
BEFORE = {
  "batch_size": 96,
  "learning_rate": 0.045,
  "train_epochs": 50,
  "norm_momentum": 0.99,
  "ema_decay": 0.999,
  "min_warmup_fraction": 0.0,
}


@pytest.mark.parametrize(
  ("values", "learned", "warned"), [({}, True, False), (BEFORE, False, True)]
)
def test_a_small_folder_is_learned_by_the_defaults(
  programs, few_digits, tmp_path, values, learned, warned
):
  of_digits = {"flip": False, "color_distortion": False, "crop_area_range": (0.7, 1.0)}
  args = _args(
    "image_folder.gin",
    few_digits,
    tmp_path,
    **{**of_digits, "eval_every_epochs": 1000, "log_every_steps": 100, **values},
  )
  output = _run(programs, TRAIN, args)
  ((_, accuracy),) = curves.read_scalars(str(tmp_path / "validation"))["accuracy"]
  assert (accuracy > 0.6) == learned, accuracy
  assert ("steps are few for norm_momentum 0.99" in output) == warned
  assert (
    "batch_size = 16: at least 8 steps an epoch of 160 images" in output
  ) != warned


# A schedule that does not know where the training ends, so that it may end twice.
FINE_TUNE = {
  "learning_rate_schedule": "constant",
  "warmup_epochs": 0.0,
  "batch_size": 4,
  "norm_momentum": 0.9,
  "ema_decay": 0.9,
}


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
  """Records of 3 classes with 8 images each to train on."""
  folder = tmp_path_factory.mktemp("colours")
  images = helpers_images.write_folder(folder / "images", dict.fromkeys("abc", 10))
  prepare.prepare(
    prepare.PreparationOptions(images, str(folder / "records"), validation_fraction=0.2)
  )
  return folder / "records"


@pytest.fixture(scope="module")
def start(programs, few_digits, tmp_path_factory):
  """The folder of a run on the digits, which are of ten classes."""
  model_dir = tmp_path_factory.mktemp("start")
  args = _args("image_folder.gin", few_digits, model_dir, train_epochs=0.4)
  _run(programs, TRAIN, args)
  return model_dir


def _fine_tune(records, start, model_dir, epochs, **values):
  values = {**FINE_TUNE, "train_epochs": epochs, **values}
  return _args("fine_tune.gin", records, model_dir, f"START = '{start}'", **values)


@pytest.fixture(scope="module")
def tuned(programs, colours, start, tmp_path_factory):
  """A run of six steps from the start, by Model Garden's driver, and its output."""
  model_dir = tmp_path_factory.mktemp("tuned")
  args = _fine_tune(colours, start, model_dir, epochs=1)
  return model_dir, _run(programs, helpers_programs.STOCK_DRIVER, args)


def test_a_fine_tuning_says_where_it_starts(tuned, start):
  assert f"starts from the EMA weights of {start}/ckpt-4" in tuned[1]
  assert "10] there, [1280, 3] here" in tuned[1]


def test_an_interrupted_fine_tuning_resumes_bit_by_bit(
  programs, colours, start, tuned, tmp_path
):
  gone = shutil.copytree(start, tmp_path / "start")
  model_dir = tmp_path / "run"
  _run(programs, TRAIN, _fine_tune(colours, gone, model_dir, epochs=2 / 3))
  shutil.rmtree(gone)  # a run with a checkpoint needs its start no more
  output = _run(programs, TRAIN, _fine_tune(colours, gone, model_dir, epochs=1))
  assert "starts from" not in output
  assert helpers_checkpoint_diff.differences(str(model_dir), str(tuned[0])) == []


def test_two_ranks_fine_tune_one_network(colours, start, tmp_path):
  """Ranks whose variables differ at a checkpoint would end the training."""
  two = {
    "distribution_strategy": "multi_worker_mirrored",
    "batch_size": 2,
    "learning_rate_schedule": "cosine",
  }
  done = subprocess.run(
    [
      *(sys.executable, "-m", "mnv2_hpu.cli.launch", "--np=2", "--", sys.executable),
      *("-m", "helpers_small_network", helpers_programs.STOCK_DRIVER),
      *_fine_tune(colours, start, tmp_path / "run", epochs=2 / 3, **two),
    ],
    cwd=helpers_programs.ROOT,
    env={**os.environ, "PYTHONPATH": str(helpers_programs.TESTS)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
  assert "starts from the EMA weights" in done.stdout
  assert run_record.finished_step(str(tmp_path / "run")) == 4
