"""Training skips what cannot be read, names it, counts it, and keeps its place."""

import logging

import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu import error_reports, errors
from mnv2_hpu.configs.image_classification import DataConfig
from mnv2_hpu.dataloaders import classification_input

PER_FILE = 6


def _jpeg(number):
  random = np.random.RandomState(number % 100)
  return tf.io.encode_jpeg(random.randint(0, 256, (16, 16, 3)).astype(np.uint8)).numpy()


def _example(number, image=None):
  feature = {
    "image/encoded": tf.train.Feature(
      bytes_list=tf.train.BytesList(value=[_jpeg(number) if image is None else image])
    ),
    "image/class/label": tf.train.Feature(
      int64_list=tf.train.Int64List(value=[number])
    ),
  }
  return tf.train.Example(
    features=tf.train.Features(feature=feature)
  ).SerializeToString()


@pytest.fixture(name="write")
def fixture_write(tmp_path):
  """Writes two files of six examples, labelled 0 to 11, some records replaced."""

  def write(replaced=()):
    replaced = dict(replaced)
    for file in range(2):
      with tf.io.TFRecordWriter(str(tmp_path / f"train-{file}")) as writer:
        for number in range(PER_FILE * file, PER_FILE * (file + 1)):
          writer.write(replaced.get(number, _example(number)))
    return tmp_path

  return write


def _dataset(folder, start_step=0, **overrides):
  options = {
    "input_path": str(folder / "train-*"),
    "global_batch_size": 3,
    "is_training": True,
    "shuffle_buffer_size": 4,
  }
  data = DataConfig(**(options | overrides))
  return classification_input.build_dataset(
    data, (8, 8), 2 * PER_FILE, start_step=start_step
  )


def _read(folder, batches, **overrides):
  read = list(_dataset(folder, **overrides).take(batches).as_numpy_iterator())
  images, labels = (np.concatenate(part) for part in zip(*read, strict=True))
  return images, labels.tolist()


BAD_RECORDS = {
  "cut off": (_example(7, _jpeg(7)[:200]), "cannot be decoded (200 bytes"),
  "text": (_example(7, b"404 not found"), "cannot be decoded (13 bytes"),
  "empty image": (_example(7, b""), "holds no image"),
  "no example": (b"\xff" * 50, "is not a tf.train.example (50 bytes)"),
  "empty record": (b"", "has no feature 'image/encoded'"),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_the_next_record_replaces_a_corrupt_one(write, caplog, name):
  """All others keep their place, their pixels included; the log names the file."""
  caplog.set_level(logging.WARNING, logger="absl")
  images, labels = _read(write(), 16)  # four epochs
  assert not caplog.records
  record, problem = BAD_RECORDS[name]
  folder = write({7: record})
  bad_images, bad_labels = _read(folder, 16)
  for place in range(len(labels)):
    after = next(p for p in range(place, len(labels)) if labels[p] != 7)
    assert bad_labels[place] == labels[after]
    assert bad_images[place].tobytes() == images[after].tobytes()
  (logged,) = caplog.records  # once, though each epoch meets it
  assert problem in logged.getMessage().lower()
  assert str(folder / "train-1") in logged.getMessage()
  assert "corrupt record 1 of at most 100" in logged.getMessage()


def test_a_resumed_run_replaces_the_same_records(write):
  folder = write({3: b"\xff", 7: _example(7, b"text"), 8: _example(8, b"text")})
  images, labels = _read(folder, 16)
  for step in (1, 3, 8):
    resumed_images, resumed_labels = _read(folder, 16 - step, start_step=step)
    assert resumed_labels == labels[3 * step :]
    assert resumed_images.tobytes() == images[3 * step :].tobytes()


def _corrupt(path, cut):
  """Wrong bytes within the fourth of six records, or an end within it."""
  content = bytearray(path.read_bytes())
  place = len(content) * 7 // 12
  if cut:
    del content[place:]
  else:
    content[place : place + 4] = bytes(b ^ 255 for b in content[place : place + 4])
  path.write_bytes(content)


@pytest.mark.parametrize("cut", [True, False], ids=["cut off", "wrong checksum"])
def test_the_readable_part_of_a_corrupt_file_is_read(write, caplog, cut):
  caplog.set_level(logging.WARNING, logger="absl")
  folder = write()
  _corrupt(folder / "train-1", cut)
  _, labels = _read(folder, 10)  # 10 of 12 places an epoch: 9 readable, 1 replaced
  assert set(labels) == {0, 1, 2, 3, 4, 5, 6, 7, 8}
  (logged,) = caplog.records
  assert "and all after it, cannot be read" in logged.getMessage()
  assert str(folder / "train-1") in logged.getMessage()


def test_more_than_the_limit_stops_the_run(write):
  folder = write({3: b"\xff", 7: b"\xff", 8: b"\xff"})
  _read(folder, 12, max_corrupt_records=3)
  with pytest.raises(tf.errors.OpError, match="max_corrupt_records allows 2") as info:
    _read(folder, 12, max_corrupt_records=2)
  assert str(folder / "train-") in str(info.value)


def test_many_in_a_row_all_count(tmp_path, caplog):
  """As where a part of a file was overwritten, and little is shuffled."""
  caplog.set_level(logging.WARNING, logger="absl")
  with tf.io.TFRecordWriter(str(tmp_path / "train-0")) as writer:
    for number in range(170):
      writer.write(b"\xff" if 10 <= number < 160 else _example(number % 10))
  options = {"shuffle_buffer_size": 1, "num_examples": 170}
  _read(tmp_path, 60, max_corrupt_records=150, **options)
  assert len({record.getMessage() for record in caplog.records}) == 150
  assert "corrupt record 150 of at most 150" in caplog.records[-1].getMessage()
  with pytest.raises(tf.errors.OpError, match="max_corrupt_records allows 149"):
    _read(tmp_path, 60, max_corrupt_records=149, **options)


@pytest.mark.parametrize("number", [6, 11])  # the last one of all, too
def test_evaluation_stops_at_a_corrupt_record_and_names_it(write, number):
  folder = write({number: _example(number, b"text")})
  with pytest.raises(tf.errors.OpError, match=r"train-1.* cannot be decoded") as info:
    _read(folder, 4, is_training=False, num_examples=12)
  assert "evaluation none" in error_reports.explain(info.value)


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("label", [-1, 12])
def test_a_label_outside_the_classes_stops_and_is_named(write, is_training, label):
  folder = write({7: _example(label)})
  with pytest.raises(tf.errors.OpError) as info:
    _read(folder, 4, is_training=is_training, num_examples=12)
  message = error_reports.explain(info.value)
  assert str(folder / "train-1") in message
  assert f"has the label {label}, but num_classes is 12" in message


def test_a_negative_limit_is_refused(tmp_path):
  with pytest.raises(errors.UserError, match="max_corrupt_records is -1"):
    _dataset(tmp_path, max_corrupt_records=-1)
