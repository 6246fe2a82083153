"""Data files are found, and their records counted; what is wrong is said."""

import pytest
import tensorflow as tf

from mnv2_hpu.dataloaders import record_files
from mnv2_hpu.errors import UserError


def _write(path, num_records):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for _ in range(num_records):
      writer.write(b"any bytes")
  return str(path)


def _shards(directory, names=("train-00000-of-00002", "train-00001-of-00002")):
  return [_write(directory / name, 2) for name in names]


def test_match_files_sorts_and_removes_repetitions(tmp_path):
  files = _shards(tmp_path)
  assert record_files.match_files(str(tmp_path / "train-*")) == files
  assert record_files.match_files(f"{files[1]}, {files[0]},{files[1]}") == files
  assert record_files.match_files([files[1], str(tmp_path / "*-00000-*")]) == files


@pytest.mark.parametrize(
  ("pattern", "texts"),
  [
    ("trian-*", ["No data file matches", "trian-*", "Did you mean", "'train-*'"]),
    ("train-00009-of-00002", ["which has 2 entries", "Did you mean 'train-*'"]),
    ("../digits/train-*", ["Looked for 'digits'", "Did you mean 'digit'"]),
    ("images/*", ["Looked for 'images'", "It holds train-*."]),
  ],
)
def test_match_files_names_what_is_there(tmp_path, pattern, texts):
  directory = tmp_path / "digit"
  directory.mkdir()
  _shards(directory)
  with pytest.raises(UserError) as caught:
    record_files.match_files(str(directory / pattern))
  for text in texts:
    assert text in str(caught.value)


def test_match_files_refuses_empty_files_directories_and_nothing(tmp_path):
  (tmp_path / "train-0").touch()
  with pytest.raises(UserError, match=r"train-0.* is empty \(0 bytes\)"):
    record_files.match_files(str(tmp_path / "train-*"))
  with pytest.raises(UserError, match=r"is a directory, .*train-0"):
    record_files.match_files(str(tmp_path))
  for nothing in ("", [], " , "):
    with pytest.raises(UserError, match="No data files were named"):
      record_files.match_files(nothing)


@pytest.mark.parametrize("name", ["set[12]", "a,b", "what?", "all*", "a, b"])
def test_the_name_of_a_folder_is_no_pattern(tmp_path, name):
  """Beside it lie folders that the name would match as a pattern."""
  for other in ("set1", "a", "whats", "all1"):
    (tmp_path / other).mkdir()
    _shards(tmp_path / other)
  (tmp_path / name).mkdir()
  files = _shards(tmp_path / name)
  assert record_files.match_files(str(tmp_path / name / "train-*")) == files
  assert record_files.match_files([files[0], files[1]]) == files
  files.append(_write(tmp_path / name / "extra-0", 1))
  pattern = str(tmp_path / name / "train-*,extra-*")
  if "," in name:
    assert record_files.match_files(pattern) == sorted(files)


def test_match_files_expands_a_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  path = _write(tmp_path / "train-0", 1)
  assert record_files.match_files("~/train-*") == [str(path)]


def test_a_folder_that_does_not_exist_may_be_a_pattern(tmp_path):
  for folder in ("set1", "set2"):
    (tmp_path / folder).mkdir()
    _shards(tmp_path / folder)
  assert len(record_files.match_files(str(tmp_path / "set[12]" / "train-*"))) == 4


def test_count_examples(tmp_path):
  files = _shards(tmp_path)
  files.append(_write(tmp_path / "train-2", 5))
  assert record_files.count_examples(files) == 9


@pytest.mark.parametrize("cut", [1, 4, 11, 20])
def test_a_truncated_file_is_named_with_its_offset(tmp_path, cut):
  path = tmp_path / "train-0"
  _write(path, 3)
  whole = path.read_bytes()
  path.write_bytes(whole[:-cut])
  third = len(whole) // 3 * 2
  with pytest.raises(UserError, match=rf"train-0.*truncated.*byte {third} "):
    record_files.count_examples([str(path)])
