import helpers_sources
import helpers_voc
import numpy as np
import pytest
import tensorflow as tf
from official.vision.dataloaders import tf_example_decoder

from mnv2_hpu import tfrecord
from mnv2_hpu.data_preparation import prepare, verify
from mnv2_hpu.data_preparation.annotations import boxes, voc_folder
from mnv2_hpu.data_preparation.annotations.formats import voc_xml
from mnv2_hpu.errors import UserError

FIRST = "Annotations/2007_000000.xml"
IMAGE = "JPEGImages/2007_000000.jpg"


def prepared(root, output, **changes):
  options = prepare.PreparationOptions(str(root), str(output), "voc", **changes)
  return prepare.prepare(options).info


def records(output, split="train"):
  shards = sorted(map(str, output.glob(f"{split}-*-of-*")))
  return [record.numpy() for record in tf.data.TFRecordDataset(shards)]


def example_of(output, name=IMAGE, split="train"):
  """The record of an image, parsed and as Model Garden decodes it."""
  for record in records(output, split):
    parsed = tfrecord.parse_example(record)
    if parsed["image/filename"] == [name.encode()]:
      return parsed, tf_example_decoder.TfExampleDecoder().decode(record)
  return None


def listed(root, **options):
  return helpers_sources.listed("voc", root, **options)


@pytest.mark.parametrize("place", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_model_garden_decodes_voc_s_boxes(tmp_path, place):
  root = helpers_voc.write(tmp_path / "in" / place)
  info = prepared(tmp_path / "in", tmp_path / "out")
  assert info.label_names == ["background", *voc_folder.CLASS_NAMES]
  assert info.category_ids == list(range(21))
  assert info.task == "detection"
  assert info.splits["train"].num_examples == 4
  assert info.splits["validation"].num_examples == 2
  assert info.splits["train"].boxes_per_class[7] == 4
  assert info.splits["train"].boxes_per_class[12] == 4
  assert f"8 {boxes.DIFFICULT}"[1:] in info.warnings[0]
  path = str((root / IMAGE).relative_to(tmp_path / "in"))
  parsed, decoded = example_of(tmp_path / "out", path)
  # Pixels count from 1, and the last one belongs to the box.
  np.testing.assert_allclose(
    decoded["groundtruth_boxes"].numpy() * [24, 36, 24, 36],
    [[6, 4, 18, 14], [0, 0, 24, 36]],
    rtol=1e-6,
  )
  assert decoded["groundtruth_classes"].numpy().tolist() == [12, 7]
  assert decoded["groundtruth_area"].numpy().tolist() == [120, 864]
  assert not decoded["groundtruth_is_crowd"].numpy().any()
  assert list(parsed["image/object/difficult"]) == [0, 1]
  assert verify.verify(str(tmp_path / "out"), deep=True).problems == []


def test_numbers_of_images_are_unique_over_the_splits(tmp_path):
  found = listed(helpers_voc.write(tmp_path))
  ids = [i.annotation.source_id for images in found.splits.values() for i in images]
  assert ids == [1, 2, 3, 4, 5, 6]


def test_boxes_that_count_from_0_are_noticed(tmp_path):
  root = helpers_voc.write(tmp_path / "in")
  (root / FIRST).write_bytes(helpers_voc.xml(("dog", 0, 7, 14, 18)))
  info = prepared(root, tmp_path / "out")
  assert f"boxes count pixels from 0, as in that of {IMAGE}" in info.warnings[0]
  _, decoded = example_of(tmp_path / "out")
  np.testing.assert_allclose(
    decoded["groundtruth_boxes"].numpy() * [24, 36, 24, 36], [[7, 0, 18, 14]], rtol=1e-6
  )


def test_other_classes_are_those_of_the_files_or_of_classes_txt(tmp_path):
  root = helpers_voc.write(tmp_path, classes=("lynx", "car"))
  assert listed(root).label_names == ["background", "car", "lynx"]
  (root / "classes.txt").write_text("lynx\nbear\n")
  found = listed(root)
  assert found.label_names == ["background", "lynx", "bear"]
  assert found.dropped == {"boxes are of an unknown class: dropped": (6, IMAGE)}


def test_without_lists_all_images_are_taken(tmp_path):
  root = helpers_voc.write(tmp_path, sets={})
  found = listed(root, validation_fraction=1 / 3)
  assert [len(images) for images in found.splits.values()] == [4, 2]
  assert found.validation_fraction == 1 / 3


def test_bad_boxes_are_counted(tmp_path):
  root = helpers_voc.write(tmp_path / "in")
  (root / FIRST).write_bytes(
    helpers_voc.xml(
      ("dog", 30, 7, 50, 18),
      ("dog", 14, 7, 5, 18),
      ("dog", 5, 7, 4, 18),
      ("dog", "", 7, 4, 18),
      ("dog", 50, 7, 60, 18),
      size=(480, 640),
    )
  )
  info = prepared(root, tmp_path / "out")
  where = f"(the first: {IMAGE})"
  for count, kind in (
    (1, boxes.CLIPPED),
    (2, boxes.NO_AREA),
    (1, boxes.NOT_FINITE),
    (1, boxes.OUTSIDE),
    (1, boxes.OTHER_SIZE),
  ):
    assert f"{count} {kind} {where}" in info.warnings


DOCTYPE = b'<!DOCTYPE lolz [<!ENTITY a "ha">]>'
BOMB = (
  b"<!DOCTYPE lolz ["
  b'<!ENTITY a "haha">'
  + b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9))
  + b"]><annotation><object><name>&j;</name></object></annotation>"
)
FILE = (
  b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>'
)


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (BOMB, "it declares a document type, 'lolz'"),
    (FILE, "it declares a document type, 'x'"),
    (DOCTYPE + helpers_voc.xml(), "it declares a document type, 'lolz'"),
    (
      (DOCTYPE + helpers_voc.xml()).decode().encode("utf-16"),
      "declares a document type",
    ),
    (helpers_voc.xml(("dog", 1, 1, 5, 5))[:200], "it is no whole XML"),
    (b"", "it is no whole XML"),
    (b"\x00\x01", "it is no whole XML"),
    (b"<annotation>&unknown;</annotation>", "it is no whole XML"),
    (b"<a><b/></a>", "its outermost element is 'a', not 'annotation'"),
    (helpers_voc.xml(("", 1, 1, 5, 5)), "an object has no name"),
    (b"<?xml version='1.0' encoding='ebcdic-x'?><annotation/>", "it is no whole XML"),
  ],
)
def test_bad_annotation_files_are_skipped_and_listed(tmp_path, data, reason):
  root = helpers_voc.write(tmp_path)
  (root / FIRST).write_bytes(data)
  found = listed(root)
  (skipped,) = found.skipped
  assert skipped["file"] == IMAGE
  assert skipped["reason"].startswith(f"its annotation {FIRST}: ")
  assert reason in skipped["reason"]
  assert len(found.splits["train"]) == 3


def test_deep_xml_does_not_overflow():
  depth = 200_000
  data = b"<annotation>" + b"<a>" * depth + b"</a>" * depth + b"</annotation>"
  assert voc_xml.parse(data).objects == []


def test_missing_files_are_skipped_and_listed(tmp_path):
  root = helpers_voc.write(tmp_path)
  (root / FIRST).unlink()
  (root / "JPEGImages/2007_000001.jpg").unlink()
  assert listed(root).skipped == [
    {"file": IMAGE, "reason": "it has no annotation"},
    {
      "file": "2007_000001",
      "reason": "annotated or listed, but there is no such image",
    },
  ]


def test_what_is_missing_or_unclear_is_said(tmp_path):
  helpers_voc.write(tmp_path, sets={"train": [8, 9]})
  with pytest.raises(UserError, match="has no annotated image to train on"):
    listed(tmp_path)
  helpers_voc.write(tmp_path, sets={"train": range(4), "val": [3]})
  with pytest.raises(UserError, match=r"in train\.txt and in val\.txt"):
    listed(tmp_path)
  (tmp_path / "Annotations").rename(tmp_path / "other")
  with pytest.raises(UserError, match="has no folder Annotations; expected are VOC's"):
    listed(tmp_path)
