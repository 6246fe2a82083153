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
