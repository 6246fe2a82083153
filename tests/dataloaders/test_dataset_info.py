import dataclasses
import json
import os

import pytest

from mnv2_hpu.dataloaders.dataset_info import DatasetInfo, SplitInfo
from mnv2_hpu.errors import UserError

INFO = DatasetInfo(
  source="image_folder",
  label_names=["café", "thé"],
  num_classes=2,
  splits={
    "train": SplitInfo(5, 2, "train-*-of-00002", [3, 2]),
    "validation": SplitInfo(1, 1, "validation-*-of-00001", [0, 1]),
  },
  skipped=[{"file": "thé/1.jpg", "reason": "the file is empty"}],
  converted=[],
  seed=3,
  validation_fraction=0.25,
  source_checksum="0" * 64,
  tool_version="0.1.0",
)


def test_what_is_saved_is_loaded(tmp_path):
  path = INFO.save(tmp_path)
  assert DatasetInfo.load(tmp_path) == INFO
  assert json.loads(path.read_text("utf-8"))["label_names"] == ["café", "thé"]
  assert [p.name for p in tmp_path.iterdir()] == ["dataset.json"]


def test_absent_file_is_none_to_find_and_an_error_to_load(tmp_path):
  assert DatasetInfo.find(tmp_path) is None
  with pytest.raises(UserError, match=r"dataset.json does not exist.*prepare_data"):
    DatasetInfo.load(tmp_path)


def test_text_that_is_no_json_names_the_file(tmp_path):
  (tmp_path / "dataset.json").write_text('{"source": "image_fol')
  with pytest.raises(UserError, match=r"dataset.json cannot be read: Unterminated"):
    DatasetInfo.find(tmp_path)


def test_unreadable_file_is_an_error_not_an_absent_one(tmp_path):
  (tmp_path / "dataset.json").mkdir()
  with pytest.raises(UserError, match=r"dataset.json is no file, or a link"):
    DatasetInfo.find(tmp_path)


# What earlier versions did not write.
NEWER = {
  "significant_bits": 16,
  "max_side": 0,
  "jpeg_quality": 0,
  "warnings": [],
  "task": "classification",
  "category_ids": [],
}


def test_a_file_of_an_earlier_version_is_read(tmp_path):
  content = dataclasses.asdict(INFO)
  for name in NEWER:
    del content[name]
  (tmp_path / "dataset.json").write_text(json.dumps(content))
  info = DatasetInfo.load(tmp_path)
  assert {name: getattr(info, name) for name in NEWER} == NEWER


@pytest.mark.parametrize("name", sorted(set(dataclasses.asdict(INFO)) - set(NEWER)))
def test_each_missing_field_is_named(tmp_path, name):
  content = dataclasses.asdict(INFO)
  del content[name]
  (tmp_path / "dataset.json").write_text(json.dumps(content))
  with pytest.raises(UserError, match=rf"dataset.json: field '{name}' is missing"):
    DatasetInfo.load(tmp_path)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"num_classes": "2"}, "'num_classes' is '2', not int"),
    ({"label_names": ["a", 5]}, "'label_names' holds 5, not str"),
    ({"significant_bits": 99}, "'significant_bits' is 99, not 8 to 16"),
    (
      {"splits": {"train": dataclasses.asdict(SplitInfo(5, 1, "train-*", ["5", 0]))}},
      "'splits.train.examples_per_class' holds '5', not int",
    ),
    (
      {"splits": {"train": dataclasses.asdict(SplitInfo(5, 1, "train-*", [6, -1]))}},
      "'splits.train.examples_per_class' holds -1, a negative",
    ),
    ({"num_classes": 3}, "'num_classes' is 3, but 'label_names' has 2"),
    ({"splits": {"train": 5}}, "splits.train is not an object"),
    ({"splits": {"train": {}}}, "'splits.train.num_examples' is missing"),
    (
      {"splits": {"train": dataclasses.asdict(SplitInfo(5, 1, "train-*", [5]))}},
      "'splits.train.examples_per_class' has 1 entries for 2 classes",
    ),
    (
      {"splits": {"train": dataclasses.asdict(SplitInfo(5, 1, "train-*", [1, 1]))}},
      "'splits.train.num_examples' is 5, but 'examples_per_class' adds up to 2",
    ),
  ],
)
def test_wrong_values_are_named(tmp_path, change, message):
  content = {**dataclasses.asdict(INFO), **change}
  (tmp_path / "dataset.json").write_text(json.dumps(content))
  with pytest.raises(UserError, match=message):
    DatasetInfo.load(tmp_path)


def test_fields_of_a_later_version_are_passed_over(tmp_path):
  content = {**dataclasses.asdict(INFO), "licence": "CC-BY"}
  (tmp_path / "dataset.json").write_text(json.dumps(content))
  assert DatasetInfo.load(tmp_path) == INFO


@pytest.mark.parametrize("content", ["[" * 100_000, f"{'1' * 5000}", "[1, 2"])
def test_hostile_json_is_an_error(tmp_path, content):
  (tmp_path / "dataset.json").write_text(content)
  with pytest.raises(UserError, match=r"dataset\.json"):
    DatasetInfo.load(tmp_path)


@pytest.mark.parametrize("make", ["pipe", "link to nothing", "link to itself"])
def test_what_is_no_file_is_an_error_not_an_absent_one(tmp_path, make):
  path = tmp_path / "dataset.json"
  if make == "pipe":
    os.mkfifo(path)
  else:
    path.symlink_to("missing" if make == "link to nothing" else "dataset.json")
  with pytest.raises(UserError, match="is no file, or a link that leads to none"):
    DatasetInfo.find(tmp_path)


def test_a_split_counts_what_its_task_has(tmp_path):
  split = SplitInfo(3, 1, "train-*", boxes_per_class=[0, 7])
  info = dataclasses.replace(
    INFO, task="detection", category_ids=[0, 18], splits={"train": split}
  )
  path = info.save(tmp_path)
  assert DatasetInfo.load(tmp_path) == info
  assert info.splits["train"].counts(info.task) == [0, 7]
  assert set(json.loads(path.read_text())["splits"]["train"]) == {
    "num_examples",
    "num_shards",
    "file_pattern",
    "boxes_per_class",
  }


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"task": "pose"}, "'task' is 'pose'; known are classification, detection"),
    ({"task": "detection"}, "'splits.train.boxes_per_class' is missing or empty"),
    ({"category_ids": [1]}, "'category_ids' has 1 entries for 2 classes"),
  ],
)
def test_a_task_without_its_fields_is_refused(tmp_path, change, message):
  content = {**dataclasses.asdict(INFO), **change}
  (tmp_path / "dataset.json").write_text(json.dumps(content))
  with pytest.raises(UserError, match=message):
    DatasetInfo.load(tmp_path)
