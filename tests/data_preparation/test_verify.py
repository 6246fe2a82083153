import collections
import os
import shutil
from pathlib import Path

import helpers_images
import pytest
import tensorflow as tf

from mnv2_hpu.data_preparation import images, listing, prepare, shards, verify
from mnv2_hpu.errors import UserError

LABELS = ["ant", "bee"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  root = tmp_path_factory.mktemp("verify")
  folder = helpers_images.write_folder(root / "images", {"ant": 16, "bee": 16})
  options = prepare.PreparationOptions(
    folder, str(root / "out"), validation_fraction=0.25, num_train_shards=2
  )
  prepare.prepare(options)
  return root / "out"


@pytest.fixture
def data_dir(prepared, tmp_path):
  return Path(shutil.copytree(prepared, tmp_path / "data"))


SHARD = "train-00000-of-00002"


def rewrite(path, change):
  """Rewrites a shard with TensorFlow: `change` gets and returns its records."""
  records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in change(records):
      writer.write(record)


def example_of(record):
  example = tf.train.Example()
  example.ParseFromString(record)
  return example


def problems(data_dir, **options):
  result = verify.verify(str(data_dir), **options)
  assert result.ok == (not result.problems)
  return result.problems


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_set_has_no_problems(data_dir, deep):
  result = verify.verify(str(data_dir), deep)
  assert result.ok
  assert result.counts == {
    "train": collections.Counter({0: 12, 1: 12}),
    "validation": collections.Counter({0: 4, 1: 4}),
  }
  assert "all well" in result.summary()


@pytest.mark.slow
def test_several_processes_find_the_same(data_dir):
  rewrite(data_dir / SHARD, lambda records: records[1:])
  assert (
    problems(data_dir, num_processes=2) == problems(data_dir, num_processes=1) != []
  )


def offsets(path):
  """Byte at which each record starts, from the records' lengths."""
  starts = [0]
  for record in tf.data.TFRecordDataset(str(path)):
    starts.append(starts[-1] + 16 + len(record.numpy()))
  return starts


@pytest.mark.parametrize("record", [0, 3, 11])
def test_a_flipped_byte_is_found_and_the_rest_still_read(data_dir, record):
  path = data_dir / SHARD
  offset = offsets(path)[record]
  data = bytearray(path.read_bytes())
  data[offset + 100] ^= 1
  path.write_bytes(data)
  first, *others = problems(data_dir)
  assert first == (
    f"{SHARD}: record {record} at byte {offset} is corrupt: its checksum does not match"
  )
  # The one record is missing from its class's count, and nothing else.
  assert len(others) == 1
  assert "records of class" in others[0]


@pytest.mark.parametrize("cut", [1, 5, 100])
def test_a_truncated_shard_is_found(data_dir, cut):
  path = data_dir / SHARD
  start = offsets(path)[-2]
  size = path.stat().st_size - cut
  path.write_bytes(path.read_bytes()[:size])
  assert problems(data_dir)[0] == (
    f"{SHARD}: record 11 at byte {start} is truncated: the file ends at byte {size}"
  )


def test_a_shard_that_is_no_tfrecord_is_given_up(data_dir):
  (data_dir / SHARD).write_bytes(bytes(range(256)) * 50)
  assert f"{SHARD}: record 0 at byte 0 is corrupt" in problems(data_dir)[0]


def test_a_corrupt_length_does_not_loop(data_dir):
  path = data_dir / SHARD
  data = bytearray(path.read_bytes())
  data[0] ^= 1
  path.write_bytes(data)
  found = problems(data_dir)
  assert "record 0 at byte 0 is corrupt" in found[0]
  assert "record 1" in found[1]


def test_an_empty_shard_is_found(data_dir):
  (data_dir / SHARD).write_bytes(b"")
  assert problems(data_dir)[0] == f"{SHARD}: the shard is empty"


def test_a_missing_shard_is_named(data_dir):
  (data_dir / SHARD).unlink()
  assert problems(data_dir)[0] == f"{SHARD}: the shard is missing"


def test_a_missing_split_is_named(data_dir):
  (data_dir / "validation-00000-of-00001").unlink()
  assert problems(data_dir) == ["validation: all shards are missing"]


def test_shards_of_two_preparations_are_noticed(data_dir):
  shutil.copy(data_dir / SHARD, data_dir / "train-00000-of-00003")
  assert "shards of two preparations" in problems(data_dir)[0]


def test_bytes_that_are_no_example_are_found(data_dir):
  rewrite(data_dir / SHARD, lambda records: [*records, b"\xff\xff"])
  (problem,) = problems(data_dir)
  assert "record 12 at byte" in problem
  assert "is not a tf.train.Example" in problem


@pytest.mark.parametrize("key", ["image/encoded", "image/class/label"])
def test_a_missing_key_is_named(data_dir, key):
  def drop(records):
    example = example_of(records[2])
    del example.features.feature[key]
    records[2] = example.SerializeToString()
    return records

  rewrite(data_dir / SHARD, drop)
  found = problems(data_dir)
  assert found[0].startswith(f"{SHARD}: record 2 at byte")
  assert f"has no feature {key!r}" in found[0]


def set_label(label):
  def change(records):
    example = example_of(records[1])
    example.features.feature["image/class/label"].int64_list.value[0] = label
    records[1] = example.SerializeToString()
    return records

  return change


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_outside_the_classes_is_found(data_dir, label):
  rewrite(data_dir / SHARD, set_label(label))
  assert (
    f"label {label}, but num_classes is 2, which allows 0 to 1" in problems(data_dir)[0]
  )


def test_a_wrong_label_is_found_by_its_name_and_by_the_counts(data_dir):
  record = next(iter(tf.data.TFRecordDataset(str(data_dir / SHARD)).skip(1))).numpy()
  right = example_of(record).features.feature["image/class/label"].int64_list.value[0]
  rewrite(data_dir / SHARD, set_label(1 - right))
  found = problems(data_dir)
  assert (
    f"is {LABELS[1 - right]!r}, but image/class/text is {LABELS[right]!r}" in found[0]
  )
  assert [text for text in found if text.startswith("train: 11 records of class")]


def test_a_duplicate_between_splits_is_found(data_dir):
  validation = data_dir / "validation-00000-of-00001"
  record = next(iter(tf.data.TFRecordDataset(str(data_dir / SHARD)))).numpy()
  rewrite(validation, lambda records: [*records, record])
  found = problems(data_dir)
  assert (
    f"{SHARD}: record 0 is the same image as record 8 of {validation.name}" in found
  )


def test_a_duplicate_within_a_split_is_no_leak(data_dir):
  rewrite(data_dir / SHARD, lambda records: [records[0], *records[:-1]])
  assert not any("same image" in problem for problem in problems(data_dir))


def corrupt_jpeg(records):
  """Keeps the ends of an image and cuts the middle: only decoding shows it."""
  example = example_of(records[4])
  data = example.features.feature["image/encoded"].bytes_list.value
  data[0] = data[0][: len(data[0]) // 2 + 100] + b"\xff\xd9"
  records[4] = example.SerializeToString()
  return records


def test_deep_finds_what_only_decoding_shows(data_dir):
  rewrite(data_dir / SHARD, corrupt_jpeg)
  assert problems(data_dir) == []
  (problem,) = problems(data_dir, deep=True)
  assert problem.startswith(f"{SHARD}: record 4 at byte")
  assert "cannot be decoded" in problem


def test_deep_compares_the_recorded_size(data_dir):
  def grow(records):
    example = example_of(records[0])
    example.features.feature["image/height"].int64_list.value[0] = 25
    return [example.SerializeToString(), *records[1:]]

  rewrite(data_dir / SHARD, grow)
  (problem,) = problems(data_dir, deep=True)
  assert problem.endswith("says 25 in image/height, but the image has 24")


def test_an_image_of_another_format_is_found_without_decoding(data_dir):
  stored = images.EncodedImage(helpers_images.encoded("BMP"), "BMP", 24, 36, 3)
  record = shards.serialize(stored, listing.SourceImage("x.bmp", 0), "ant").data
  rewrite(data_dir / SHARD, lambda records: [*records, record])
  assert problems(data_dir)[0].endswith("holds neither JPEG nor PNG in image/encoded")


def test_a_set_without_dataset_json_is_checked_as_far_as_that_goes(data_dir):
  (data_dir / "dataset.json").unlink()
  assert problems(data_dir, num_processes=1) == []
  rewrite(data_dir / SHARD, set_label(-1))
  (problem,) = problems(data_dir, num_processes=1)
  assert problem.endswith("has the label -1; allowed are 0 and more")


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_shards_is_explained(tmp_path, name):
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match=f"--data_dir=.*{name} (is not|has no shards)"):
    verify.verify(str(tmp_path / name))


def test_many_problems_are_counted_not_all_printed(data_dir):
  rewrite(data_dir / SHARD, lambda records: [b"\xff"] * 100)
  text = verify.verify(str(data_dir)).summary(max_problems=5)
  assert text.count("is not a tf.train.Example") == 5
  assert "and 97 more" in text  # 100 records and two counts


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to itself"])
def test_a_shard_that_is_no_file_is_a_problem(data_dir, kind):
  path = data_dir / SHARD
  path.unlink()
  if kind == "pipe":
    os.mkfifo(path)
  elif kind == "folder":
    path.mkdir()
  else:
    path.symlink_to(SHARD)
  assert f"{SHARD}: no file, or a link that leads to none" in problems(data_dir)
