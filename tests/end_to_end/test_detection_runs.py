"""SSDLite through Model Garden's driver: the same twice, killed and resumed."""

import helpers_checkpoint_diff
import helpers_programs
import pytest

from mnv2_hpu.data_preparation import digit_scenes
from mnv2_hpu.reporting import curves

pytestmark = pytest.mark.slow

EXPERIMENT = "mobilenet_v2_ssdlite"
# With a network that is soon traced.
DRIVER = ("helpers_small_network", helpers_programs.STOCK_DRIVER)
TRAIN, VALIDATION, BATCH = 24, 6, 4
SETTINGS = {
  "batch_size": BATCH,
  "checkpoint_every_epochs": 2 * BATCH / TRAIN,
  "compute_dtype": "'bfloat16'",
  "ema_decay": 0.9,
  "eval_batch_size": 2,
  "eval_every_epochs": 4 * BATCH / TRAIN,
  "image_size": 96,
  "log_every_steps": 2,
  "train_epochs": 8 * BATCH / TRAIN,
  "width_multiplier": 0.35,
}


@pytest.fixture(scope="module")
def records(programs, tmp_path_factory):
  folder = tmp_path_factory.mktemp("scenes")
  digit_scenes.write_scenes(str(folder / "scenes"), TRAIN, VALIDATION, (96, 96))
  done = programs.run(
    "mnv2_hpu.cli.prepare_data",
    "--source=coco",
    f"--input_dir={folder / 'scenes'}",
    f"--output_dir={folder / 'records'}",
  )
  assert done.returncode == 0, done.output[-3000:]
  return folder / "records"


def arguments(records, model_dir):
  return [
    f"--experiment={EXPERIMENT}",
    "--gin_file=gin/ssdlite.gin",
    f"--gin_params=DATA_DIR = '{records}'",
    *(f"--gin_params={EXPERIMENT}.{k} = {v}" for k, v in SETTINGS.items()),
    "--mode=train_and_eval",
    f"--model_dir={model_dir}",
  ]


@pytest.fixture(scope="module")
def undisturbed(records, programs, tmp_path_factory):
  model_dir = tmp_path_factory.mktemp("undisturbed")
  done = programs.run(*DRIVER, *arguments(records, model_dir))
  assert done.returncode == 0, done.output[-3000:]
  return model_dir


def assert_same(one, other):
  """Checks all variables bit for bit, and every metric that was logged."""
  for folder in (".", "best_ckpt"):
    paths = (str(run / folder) for run in (one, other))
    assert helpers_checkpoint_diff.differences(*paths) == []
  read = [curves.read_scalars(str(run / "validation")) for run in (one, other)]
  assert [step for step, _ in read[0]["AP50"]] == [4, 8]
  assert read[0] == read[1]


def test_two_runs_of_one_seed_are_the_same(undisturbed, records, programs, tmp_path):
  """Crops, flips and mined negatives are all in these steps."""
  done = programs.run(*DRIVER, *arguments(records, tmp_path))
  assert done.returncode == 0, done.output[-3000:]
  assert_same(tmp_path, undisturbed)


def test_a_killed_run_that_resumes_is_the_undisturbed_one(
  undisturbed, records, programs, tmp_path
):
  args = arguments(records, tmp_path)
  killed = programs.run("helpers_faulty_run", "stepping:6", *args)
  assert killed.returncode == -9, killed.output[-3000:]
  done = programs.run(*DRIVER, *args)
  assert done.returncode == 0, done.output[-3000:]
  assert_same(tmp_path, undisturbed)
