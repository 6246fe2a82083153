"""Exports of a whole run, as `mnv2-export` makes them."""

import os
import subprocess
import sys

import golden_recipes
import pytest

import mnv2_hpu
from mnv2_hpu import files
from mnv2_hpu.core import imported_run
from mnv2_hpu.evaluation import checked_export

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
