"""verify_data on records with boxes."""

import shutil
from pathlib import Path

import helpers_coco
import pytest
import tensorflow as tf

from mnv2_hpu.data_preparation import prepare, verify

SHARD = "train-00000-of-00002"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  root = tmp_path_factory.mktemp("verify_boxes")
  made = helpers_coco.content(20)
  made["annotations"] = [a for a in made["annotations"] if a["image_id"] != 5]
  folder = helpers_coco.write(root / "coco", made)
  options = prepare.PreparationOptions(
    folder, str(root / "out"), "coco", num_train_shards=2
  )
  prepare.prepare(options)
  return root / "out"


@pytest.fixture
def data_dir(prepared, tmp_path):
  return Path(shutil.copytree(prepared, tmp_path / "data"))


def rewrite(path, change, record=0):
  """Changes the features of a shard's record that has boxes."""
  examples = [
    tf.train.Example.FromString(record.numpy())
    for record in tf.data.TFRecordDataset(str(path))
  ]
  with_boxes = [e for e in examples if e.features.feature[LABEL].int64_list.value]
  change(with_boxes[record].features.feature)
  with tf.io.TFRecordWriter(str(path)) as writer:
    for example in examples:
      writer.write(example.SerializeToString())


LABEL, YMIN, XMAX = (
  "image/object/class/label",
  "image/object/bbox/ymin",
  "image/object/bbox/xmax",
)


def problems(data_dir, **options):
  return verify.verify(str(data_dir), num_processes=1, **options).problems


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_set_has_no_problems(data_dir, deep):
  result = verify.verify(str(data_dir), deep)
  assert result.ok
  assert result.task == "detection"
  assert result.num_images == {"train": 20, "validation": 4}
  assert dict(result.counts["train"]) == {1: 19, 2: 19}
  assert "20 images of 2 classes, 19 to 19 boxes per class" in result.summary()


def set_float(key, value):
  def change(feature):
    feature[key].float_list.value[1] = value

  return change


def set_label(value):
  def change(feature):
    feature[LABEL].int64_list.value[0] = value

  return change


def clear(key):
  def change(feature):
    del feature[key]

  return change


def set_source_id(value):
  def change(feature):
    feature["image/source_id"].bytes_list.value[0] = value

  return change


def set_text(feature):
  feature["image/object/class/text"].bytes_list.value[0] = b"cat"


@pytest.mark.parametrize(
  ("change", "problem"),
  [
    (set_float(XMAX, 1.01), "has 1 boxes outside of [0, 1], the first is number 1:"),
    (set_float(YMIN, -0.1), "has 1 boxes outside of [0, 1], the first is number 1:"),
    (set_float(YMIN, float("nan")), "has a coordinate that is no number"),
    (set_float(YMIN, 0.99), "has 1 boxes inverted or without area"),
    (set_float(XMAX, 0.0), "has 1 boxes inverted or without area"),
    (set_label(0), "has a box with the label 0; allowed are 1 to 2"),
    (set_label(3), "has a box with the label 3; allowed are 1 to 2"),
    (clear(YMIN), "has 2 boxes in 'image/object/class/label', but 0 in"),
    (clear(LABEL), "has 0 boxes in 'image/object/class/label', but 2 in"),
    (set_source_id(b"abc"), "has b'abc' in image/source_id, not the digits"),
    (clear("image/source_id"), "has no text in the feature 'image/source_id'"),
    (set_text, "has a box with the label"),
  ],
)
def test_what_is_wrong_with_a_box_is_found(data_dir, change, problem):
  rewrite(data_dir / SHARD, change)
  found = problems(data_dir)
  assert found[0].startswith(f"{SHARD}: record ")
  assert problem in found[0]


def test_a_swapped_label_is_found_by_its_text_and_by_the_counts(data_dir):
  rewrite(data_dir / SHARD, set_label(1))  # was 2, the category with the larger id
  found = problems(data_dir)
  assert "label 1, which is 'car', but image/object/class/text is b'dog'" in found[0]
  assert found[1] == "train: 18 boxes of class 1 ('car'), but dataset.json says 19"


def test_a_missing_record_is_found_by_the_counts(data_dir):
  path = data_dir / SHARD
  records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in records[1:]:
      writer.write(record)
  assert problems(data_dir)[0] == "train: 19 images, but dataset.json says 20"


def test_two_images_with_one_number_are_found(data_dir):
  rewrite(data_dir / SHARD, set_source_id(b"7"))
  rewrite(data_dir / "train-00001-of-00002", set_source_id(b"7"))
  assert any(
    "1 numbers in image/source_id are those of two images or more, such as 7" in text
    for text in problems(data_dir)
  )


def test_a_set_without_dataset_json_is_known_by_its_records(data_dir):
  (data_dir / "dataset.json").unlink()
  assert problems(data_dir) == []
  rewrite(data_dir / SHARD, set_label(0))
  (problem,) = problems(data_dir)
  assert "has a box with the label 0; allowed are 1 and more" in problem
