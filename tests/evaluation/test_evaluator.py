"""What an evaluation knows of a run besides its weights."""

import json

import pytest
from official.core import exp_factory

import mnv2_hpu
from mnv2_hpu.core import run_record
from mnv2_hpu.dataloaders import dataset_info
from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation import evaluator

mnv2_hpu.register()


def segmenter(folder):
  params = exp_factory.get_exp_config("mobilenet_v2_deeplabv3")
  params.task.model.num_classes = 3
  params.task.validation_data.input_path = str(folder / "validation-*")
  return params


def test_numbers_instead_of_names_are_told(tmp_path, capsys):
  assert evaluator.class_names(segmenter(tmp_path), str(tmp_path)) == ["0", "1", "2"]
  told = capsys.readouterr().err
  assert told.startswith("warning: classes are shown by number")
  assert repr(str(tmp_path)) in told
  assert told.count("\n") == 1


NAMES = ["ground", "cat", "dog"]


def dataset(folder, task):
  """A dataset.json of a training split."""
  folder.mkdir()
  split = dataset_info.SplitInfo(
    num_examples=1,
    num_shards=1,
    file_pattern="train-*",
    **{dataset_info.COUNTS_OF_TASK[task]: [1, 0, 0]},
  )
  dataset_info.DatasetInfo(
    source="made here",
    label_names=NAMES,
    num_classes=3,
    splits={"train": split},
    skipped=[],
    converted=[],
    seed=0,
    validation_fraction=None,
    source_checksum="",
    tool_version="",
    task=task,
  ).save(folder)
  return folder


@pytest.fixture
def run(tmp_path):
  """The folder of a segmenter's run, whose data is in `data`."""
  params = segmenter(dataset(tmp_path / "data", "segmentation"))
  params.task.train_data.input_path = str(tmp_path / "data" / "train-*")
  run_record.check_and_write(str(tmp_path / "run"), params, allow_change=False)
  return str(tmp_path / "run")


def test_a_run_names_its_classes_after_its_data_was_moved(run, tmp_path, capsys):
  (tmp_path / "data").rename(tmp_path / "moved")
  assert evaluator.class_names(run_record.load(run), run) == NAMES
  assert capsys.readouterr().err == ""


def test_files_of_another_task_are_refused(run, tmp_path):
  pattern = str(dataset(tmp_path / "boxes", "detection") / "train-*")
  with pytest.raises(
    UserError, match=r"boxes' was prepared for detection .*trains seg"
  ):
    evaluator.evaluate(run, checkpoint=f"{run}/ckpt-1", input_path=pattern)


def test_names_of_imported_weights_are_taken_without_a_word(tmp_path, capsys):
  content = {"label_names": ["ground", "cat", "dog"]}
  (tmp_path / "import.json").write_text(json.dumps(content))
  names = evaluator.class_names(segmenter(tmp_path / "no"), str(tmp_path))
  assert names == content["label_names"]
  assert capsys.readouterr().err == ""
