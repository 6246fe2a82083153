"""Two ranks in Model Garden's unmodified driver: horovodrun, then mpirun resumes."""

import pathlib
import subprocess
import sys

import helpers_mpirun
import helpers_programs
import pytest
import tensorflow as tf

from mnv2_hpu.reporting import curves

pytestmark = [
  pytest.mark.slow,
  pytest.mark.long("two processes that each import TensorFlow and trace, on one core"),
  helpers_mpirun.needs_horovod,
]

BATCH = 16  # images of one rank
TRAIN, VALIDATION = 1438, 359


def _arguments(records, model_dir, mode, steps):
  settings = {
    "batch_size": BATCH,
    "eval_batch_size": 50,
    "image_size": 32,
    "log_every_steps": 1,
    "train_epochs": steps * 2 * BATCH / TRAIN,
    "distribution_strategy": "'horovod'",
  }
  params = [f"mobilenet_v2_classification.{k} = {v}" for k, v in settings.items()]
  params += [
    f"DATA_DIR = '{records}'",
    "mnv2_hpu.Trainer.evaluate_raw_weights = False",
    "mnv2_hpu.horovod.gradient_compression = 'bf16'",
  ]
  return [
    *("-W", "ignore", "-m", "helpers_small_network", helpers_programs.STOCK_DRIVER),
    "--experiment=mobilenet_v2_classification",
    "--gin_file=gin/digits.gin",
    *(f"--gin_params={param}" for param in params),
    f"--mode={mode}",
    f"--model_dir={model_dir}",
  ]


@pytest.fixture(scope="module", autouse=True)
def _helpers_on_the_path():
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("PYTHONPATH", str(helpers_programs.TESTS))
    yield


@pytest.fixture(scope="module")
def trained(digits_records, tmp_path_factory):
  """(model folder, output) of two steps and an evaluation under horovodrun."""
  model_dir = tmp_path_factory.mktemp("horovodrun")
  horovodrun = pathlib.Path(sys.executable).with_name("horovodrun")
  done = subprocess.run(
    [
      *(horovodrun, "-np", "2", sys.executable),
      *_arguments(digits_records, model_dir, "train_and_eval", 2),
    ],
    cwd=helpers_programs.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  output = done.stdout + done.stderr
  assert done.returncode == 0, output[-5000:]
  return model_dir, output


def _step(model_dir):
  return tf.train.load_variable(
    str(model_dir), "global_step/.ATTRIBUTES/VARIABLE_VALUE"
  )


def test_every_held_out_digit_counts_once(trained):
  model_dir, _ = trained
  ((step, accuracy),) = curves.read_scalars(str(model_dir / "validation"))["accuracy"]
  hits = accuracy * VALIDATION
  assert step == 2
  assert hits == pytest.approx(round(hits), abs=1e-3)


def test_rank_0_alone_writes_and_speaks(trained):
  model_dir, output = trained
  assert _step(model_dir) == 2
  # The recipe and the curves; the metrics.
  for part, count in (("train", 2), ("validation", 1)):
    assert len(list((model_dir / part).iterdir())) == count
  assert "[0]<stdout>" in output
  assert "[1]<stdout>" not in output
  assert "HorovodStrategy, 2 processes" in output


def test_mpirun_resumes_although_rank_1_sees_no_model_folder(trained, digits_records):
  model_dir, _ = trained
  folders = (model_dir, "/proc/no/such/folder")
  code, output = helpers_mpirun.run(
    [_arguments(digits_records, folder, "train", 4) for folder in folders]
  )
  assert code == 0, output[-5000:]
  assert _step(model_dir) == 4
  loss = curves.read_scalars(str(model_dir / "train"))["training_loss"]
  assert [step for step, _ in loss] == [1, 2, 3, 4]
