from pathlib import Path

import helpers_images
import helpers_sources
import numpy as np
import pytest
import tensorflow as tf
from official.vision.dataloaders import tf_example_decoder

from mnv2_hpu import tfrecord
from mnv2_hpu.data_preparation import prepare, verify
from mnv2_hpu.data_preparation.annotations import boxes
from mnv2_hpu.errors import UserError

LINES = "0 0.5 0.5 0.25 0.5\n2 0.25 0.25 0.5 0.5\n"
NAMES = "path: ../x\ntrain: images/train\nnames: [cat, dog, '3']\n"
FIRST = "labels/train/000.txt"


def write(root, split="train", number=6, first=0, inner=True, names=NAMES):
  """Writes images with two boxes each, and data.yaml; returns the folder."""
  for index in range(first, first + number):
    parts = ("images", split), ("labels", split)
    folders = [Path(*(p if inner else p[::-1])) for p in parts]
    for folder, name, data in (
      (folders[0], f"{index:03d}.jpg", helpers_images.jpeg(index)),
      (folders[1], f"{index:03d}.txt", LINES.encode()),
    ):
      (root / folder).mkdir(parents=True, exist_ok=True)
      (root / folder / name).write_bytes(data)
  if names:
    (root / "data.yaml").write_text(names)
  return root


def listed(root, **options):
  return helpers_sources.listed("yolo", root, **options)


def prepared(root, output, **changes):
  options = prepare.PreparationOptions(str(root), str(output), "yolo", **changes)
  return prepare.prepare(options).info


def decoded(output, name):
  decoder = tf_example_decoder.TfExampleDecoder()
  for path in sorted(map(str, output.glob("train-*-of-*"))):
    for record in tf.data.TFRecordDataset(path):
      parsed = tfrecord.parse_example(record.numpy())
      if parsed["image/filename"] == [name.encode()]:
        return decoder.decode(record)
  return None


@pytest.mark.parametrize("inner", [True, False])
def test_model_garden_decodes_the_boxes(tmp_path, inner):
  root = write(tmp_path / "in", inner=inner)
  write(root, "val", 2, first=50, inner=inner)
  info = prepared(root, tmp_path / "out")
  assert info.label_names == ["background", "cat", "dog", "3"]
  assert info.category_ids == [0, 0, 1, 2]
  assert info.splits["train"].boxes_per_class == [0, 6, 0, 6]
  assert info.splits["validation"].num_examples == 2
  assert info.warnings == info.skipped == []
  name = "images/train/000.jpg" if inner else "train/images/000.jpg"
  example = decoded(tmp_path / "out", name)
  np.testing.assert_allclose(
    example["groundtruth_boxes"],
    [[0.25, 0.375, 0.75, 0.625], [0, 0, 0.5, 0.5]],
    atol=1e-6,
  )
  assert example["groundtruth_classes"].numpy().tolist() == [1, 3]
  np.testing.assert_allclose(example["groundtruth_area"], [108, 216], rtol=1e-6)
  assert verify.verify(str(tmp_path / "out"), deep=True).problems == []


@pytest.mark.parametrize(
  ("names", "expected"),
  [
    ("names:\n  0: cat\n  1: dog\n  2: cow\n", ["cat", "dog", "cow"]),
    ("names:\n  2: cow\n  0: cat\n", ["cat", "cow"]),
    ("nc: 3\nnames: ['0', 1, 2.5]\n", ["0", "1", "2.5"]),
  ],
)
def test_names_are_a_list_or_a_map(tmp_path, names, expected):
  assert listed(write(tmp_path, names=names)).label_names[1:] == expected


def test_names_are_those_of_classes_txt(tmp_path):
  write(tmp_path, names=None)
  (tmp_path / "classes.txt").write_text("cat\ndog\ncow\n")
  assert listed(tmp_path).label_names[1:] == ["cat", "dog", "cow"]


def test_without_splits_a_fraction_is_held_out(tmp_path):
  root = write(tmp_path, split="")
  found = listed(root, validation_fraction=1 / 3)
  assert [len(images) for images in found.splits.values()] == [4, 2]
  ids = [i.annotation.source_id for images in found.splits.values() for i in images]
  assert sorted(ids) == [1, 2, 3, 4, 5, 6]


def test_a_test_split_gives_way_to_a_validation_split(tmp_path):
  for split, first in (("train", 0), ("valid", 20), ("test", 40)):
    write(tmp_path, split, 2, first, inner=False)
  found = listed(tmp_path)
  assert found.splits["validation"][0].path == "valid/images/020.jpg"
  assert found.skipped == [
    {"file": "test", "reason": "of a test split; valid is for validation"}
  ]


@pytest.mark.parametrize(
  ("line", "expected", "warning"),
  [
    ("0 0.5 0.5 2.0 0.5", [0.25, 0, 0.75, 1], boxes.CLIPPED),
    ("0 1.5 0.5 0.1 0.5", None, boxes.OUTSIDE),
    ("0 320 240 100 100", None, boxes.OUTSIDE),
    ("0 0.5 0.5 -0.1 0.5", None, boxes.NO_AREA),
    ("0 0.5 0.5 0 0.5", None, boxes.NO_AREA),
    ("0 0.5 0.5 0.1", None, "lines are not a class and four numbers"),
    ("0 0.5 0.5 0.1 0.1 0.9", None, "lines are not a class and four numbers"),
    ("cat 0.5 0.5 0.1 0.1", None, "lines are not a class and four numbers"),
    ("0.5 0.5 0.5 0.1 0.1", None, "lines are not a class and four numbers"),
    ("0 nan 0.5 0.1 0.1", None, "lines are not a class and four numbers"),
    ("0 inf 0.5 0.1 0.1", None, "lines are not a class and four numbers"),
    ("7 0.5 0.5 0.5 0.5", None, "boxes are of an unknown class"),
    ("-1 0.5 0.5 0.5 0.5", None, "boxes are of an unknown class"),
    ("1e30 0.5 0.5 0.5 0.5", None, "lines are not a class and four numbers"),
    ("0 0.1 0.2 0.9 0.3 0.4 0.8", [0.2, 0.1, 0.8, 0.9], None),  # an outline
  ],
)
def test_lines_that_are_no_boxes_are_counted(tmp_path, line, expected, warning):
  root = write(tmp_path / "in")
  (root / FIRST).write_text(f"\n{line}\n")
  info = prepared(root, tmp_path / "out")
  found = [text for text in info.warnings if warning and warning in text]
  assert len(found) == bool(warning)
  example = decoded(tmp_path / "out", "images/train/000.jpg")
  np.testing.assert_allclose(
    example["groundtruth_boxes"],
    [expected] if expected else np.zeros((0, 4)),
    atol=1e-6,
  )


def test_an_image_without_a_file_has_no_objects(tmp_path):
  root = write(tmp_path / "in")
  (root / FIRST).unlink()
  (root / "labels/train/003.txt").write_bytes(b"")
  (root / "labels/train/alone.txt").write_text(LINES)
  info = prepared(root, tmp_path / "out")
  assert f"2 {boxes.NO_OBJECTS}" in "".join(info.warnings)
  assert sum(split.num_examples for split in info.splits.values()) == 6
  assert info.skipped == [
    {"file": "labels/train/alone.txt", "reason": "boxes without image"}
  ]


# Ten lists of nine of the list before: 9**10 words, if one wrote them all.
BOMB = "a0: &a0 [x]\n" + "".join(
  f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 11)
)
BOMB += "names: {0: *a10}\n"


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (None, r"has neither data\.yaml nor classes\.txt. Write the latter"),
    ("", r"data\.yaml must have `names`.*received None"),
    ("names: 5", r"data\.yaml must have `names`.*received 5"),
    ("names: []", r"data\.yaml must have `names`"),
    ("names: {a: b}", r"data\.yaml must have `names`"),
    ("names: [[a]]", r"data\.yaml must have `names`"),
    ("names: [a, '']", r"data\.yaml must have `names`"),
    ("names: [a", r"data\.yaml cannot be read as YAML"),
    ("!!python/object/apply:os.system ['true']", r"data\.yaml cannot be read as YAML"),
    (BOMB, r"data\.yaml must have `names`"),
    ("- a\n- b\n", r"data\.yaml must have `names`"),
  ],
)
def test_names_that_cannot_be_understood(tmp_path, names, message):
  write(tmp_path, names=names)
  if names == "":
    (tmp_path / "data.yaml").write_text("")
  with pytest.raises(UserError, match=message):
    listed(tmp_path)


def test_a_file_that_is_no_text_is_skipped_and_listed(tmp_path):
  root = write(tmp_path)
  (root / FIRST).write_bytes(b"\xff\xfe")
  found = listed(root)
  (skipped,) = found.skipped
  assert skipped["file"] == "images/train/000.jpg"
  assert skipped["reason"].startswith(f"{FIRST} cannot be read as text")
  assert sum(len(images) for images in found.splits.values()) == 5


def test_what_is_missing_is_said(tmp_path):
  root = write(tmp_path)
  (root / "labels").rename(root / "other")
  with pytest.raises(UserError, match="has no images to train on; expected are the"):
    listed(root)


def test_class_0_cannot_keep_its_id(tmp_path):
  with pytest.raises(UserError, match="the category id 0 of 'cat' cannot be a label"):
    listed(write(tmp_path), keep_category_ids=True)
