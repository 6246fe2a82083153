"""Exports of a whole run, as `mnv2-export` makes them."""

import os
import subprocess
import sys

import golden_recipes
import numpy as np
import pytest
from helpers_serving import write_records

import mnv2_hpu
from mnv2_hpu import files
from mnv2_hpu.core import run_record
from mnv2_hpu.core.imported import run as imported_run
from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation import checked_export
from mnv2_hpu.evaluation.sets import classification

pytestmark = pytest.mark.slow  # for the imports that all of them share

mnv2_hpu.register()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A folder to export: the golden weights, imported."""
  folder = tmp_path_factory.mktemp("run") / "imported"
  source = golden_recipes.GOLDEN / "checkpoint"
  imported_run.import_checkpoint(str(source), str(folder))
  return str(folder)


def test_two_exports_into_one_folder_are_refused_at_once(run, tmp_path):
  export_dir = tmp_path / "export"
  with files.locked_folder(export_dir):
    done = subprocess.run(
      [
        *(sys.executable, "-m", "mnv2_hpu.cli.export"),
        *(f"--model_dir={run}", f"--export_dir={export_dir}"),
      ],
      capture_output=True,
      text=True,
    )
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1].startswith(
    f"error: --export_dir={export_dir} cannot be used: {export_dir}; another process "
  )
  assert os.listdir(export_dir) == []


def test_what_an_earlier_check_found_is_not_left_beside_a_new_export(run, tmp_path):
  for name in ("check.json", "check.npz", "export.json"):
    (tmp_path / name).write_text("{}")
  text = checked_export.export_run(
    run, str(tmp_path), formats=["huggingface"], check=False
  )
  assert "exported the raw weights" in text
  assert sorted(os.listdir(tmp_path)) == ["export.json", "huggingface"]


def test_a_failed_export_leaves_no_folder(run, tmp_path):
  with pytest.raises(ValueError, match="calibrated with images"):
    checked_export.export_run(
      run, str(tmp_path / "new"), formats=["tflite_int8"], calibration_images=0
    )
  assert list(tmp_path.iterdir()) == []


def test_images_that_cannot_be_evaluated_are_refused_before_the_export(run, tmp_path):
  with pytest.raises(UserError, match="No data file matches"):
    checked_export.export_run(
      run, str(tmp_path / "new"), validation_files=str(tmp_path / "none-*")
    )
  records = tmp_path / "validation-00000-of-00001"
  write_records(records, [np.zeros([40, 40, 3], np.uint8)], [77])
  with pytest.raises(UserError, match="label 77, but num_classes is 11"):
    checked_export.export_run(run, str(tmp_path / "new"), validation_files=str(records))
  assert list(tmp_path.iterdir()) == [records]


def test_files_of_other_libraries_are_imported_again_and_checked(run, tmp_path):
  records = tmp_path / "validation-00000-of-00001"
  rng = np.random.default_rng(0)
  images = [rng.integers(0, 256, (40 + i, 60, 3), np.uint8) for i in range(20)]
  write_records(records, images, [i % 11 for i in range(20)])
  formats = ["huggingface", "keras"]
  text = checked_export.export_run(
    run, str(tmp_path / "new"), formats=formats, validation_files=str(records)
  )
  rows = [line.split() for line in text.splitlines()[-2:]]
  assert [(row[0], row[2]) for row in rows] == [(name, "20") for name in formats]


def test_a_batch_larger_than_the_set_is_no_larger(run, tmp_path):
  records = tmp_path / "validation-00000-of-00001"
  image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
  write_records(records, [image] * 3, [0, 1, 2])
  params = run_record.load(run)
  data = params.task.validation_data
  data.override({"input_path": str(records), "global_batch_size": 2000})
  result = classification.evaluate(params, run, weights="raw")
  assert result.counts.num_examples == 3
  assert data.global_batch_size == 3
