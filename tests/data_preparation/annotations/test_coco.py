import dataclasses
import hashlib
import json
import os
import zipfile
from pathlib import Path

import helpers_coco
import helpers_images
import helpers_sources
import numpy as np
import pytest
import tensorflow as tf
from official.vision.dataloaders import retinanet_input, tf_example_decoder
from PIL import ExifTags, Image, ImageOps

from mnv2_hpu import tfrecord
from mnv2_hpu.data_preparation import prepare
from mnv2_hpu.data_preparation.annotations import boxes
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo
from mnv2_hpu.errors import UserError

BOX = helpers_coco.box


def prepared(root, output, **changes):
  options = prepare.PreparationOptions(str(root), str(output), "coco", **changes)
  return prepare.prepare(options)


def examples(output, split="train"):
  """The parsed records of a split, by source id."""
  shards = sorted(map(str, Path(output).glob(f"{split}-*-of-*")))
  parsed = [
    tfrecord.parse_example(record.numpy()) for record in tf.data.TFRecordDataset(shards)
  ]
  return {int(example["image/source_id"][0]): example for example in parsed}


def decoded(output, split="train"):
  """The records of a split as Model Garden decodes them, by source id."""
  decoder = tf_example_decoder.TfExampleDecoder()
  shards = sorted(map(str, Path(output).glob(f"{split}-*-of-*")))
  found = [decoder.decode(record) for record in tf.data.TFRecordDataset(shards)]
  return {int(example["source_id"].numpy()): example for example in found}


def digests(output):
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in Path(output).iterdir()
  }


def test_model_garden_decodes_what_is_annotated(tmp_path):
  root = helpers_coco.write(tmp_path / "coco")
  info = prepared(root, tmp_path / "out").info
  assert info == DatasetInfo.load(tmp_path / "out")
  assert info.task == "detection"
  assert info.label_names == ["background", "car", "dog"]
  assert info.category_ids == [0, 3, 18]
  assert info.num_classes == 3
  assert info.splits["train"].boxes_per_class == [0, 12, 12]
  assert info.splits["validation"].boxes_per_class == [0, 4, 4]
  assert info.splits["train"].num_examples == 12
  assert info.validation_fraction is None
  found = decoded(tmp_path / "out")
  assert sorted(found) == list(range(1, 13))
  example = found[7]
  assert example["height"] == 24
  assert example["width"] == 36
  np.testing.assert_array_equal(example["groundtruth_classes"], [2, 1])
  np.testing.assert_allclose(
    example["groundtruth_boxes"],
    [[6 / 24, 4 / 36, 18 / 24, 16 / 36], [6 / 24, 5 / 36, 18 / 24, 17 / 36]],
    rtol=1e-6,
  )
  np.testing.assert_array_equal(example["groundtruth_area"], [77, 77])
  assert not example["groundtruth_is_crowd"].numpy().any()
  record = examples(tmp_path / "out")[7]
  assert list(record["image/object/class/text"]) == [b"dog", b"car"]
  assert record["image/filename"] == [b"train2017/007.jpg"]
  data = Path(root, "train2017/007.jpg").read_bytes()
  assert record["image/encoded"] == [data]


def test_model_garden_parses_for_training(tmp_path):
  crowd = BOX(900, 3, (0, 0, 20, 20), iscrowd=1)
  made = helpers_coco.content()
  made["annotations"].append(crowd)
  root = helpers_coco.write(tmp_path / "coco", made)
  info = prepared(root, tmp_path / "out").info
  assert info.splits["train"].boxes_per_class == [0, 12, 13]
  assert f"1 {boxes.CROWD} (the first: train2017/003.jpg)" in info.warnings
  example = decoded(tmp_path / "out")[3]
  assert example["groundtruth_is_crowd"].numpy().tolist() == [False, False, True]
  parser = retinanet_input.Parser([64, 64], 3, 7, 3, [1.0], 4.0)
  _, labels = parser.parse_fn(is_training=True)(example)
  assert set(labels["cls_targets"]) == {"3", "4", "5", "6", "7"}


def zipped(root):
  helpers_coco.zip_folder(root, "annotations_trainval2017.zip", "annotations")
  helpers_coco.zip_folder(root, "train2017.zip", "train2017")
  deflated = zipfile.ZIP_DEFLATED
  helpers_coco.zip_folder(root, "val2017.zip", "val2017", method=deflated)


def nested(root):
  (root / "images").mkdir()
  for split in ("train", "val"):
    Path(root, f"{split}2017").rename(root / "images" / split)
    old = root / "annotations" / f"instances_{split}2017.json"
    old.rename(root / "annotations" / f"{split}.json")


def exported(root):
  for split, name in (("train", "train"), ("val", "valid")):
    Path(root, f"{split}2017").rename(root / name)
    old = root / "annotations" / f"instances_{split}2017.json"
    old.rename(root / name / "_annotations.coco.json")
  (root / "annotations").rmdir()


@pytest.mark.parametrize("change", [zipped, nested, exported])
def test_other_layouts_hold_the_same(tmp_path, change):
  """The official zip files, folders without year, and what web tools export."""
  root = Path(helpers_coco.write(tmp_path / "coco"))
  prepared(root, tmp_path / "one")
  change(root)
  result = prepared(root, tmp_path / "other")
  assert not result.info.skipped
  for split in ("train", "validation"):
    one, other = (examples(tmp_path / name, split) for name in ("one", "other"))
    assert list(one) == list(other)
    for identity, example in one.items():
      for key in set(example) - {"image/filename"}:
        assert list(example[key]) == list(other[identity][key])


def test_one_file_is_divided_by_the_seed(tmp_path):
  made = helpers_coco.content(20)
  helpers_coco.write_json(tmp_path / "in/result.json", made)
  helpers_coco.write_images(tmp_path / "in/images", made)

  def listed(**options):
    return helpers_sources.listed("coco", tmp_path / "in", **options)

  info = listed(validation_fraction=0.25, seed=3)
  assert [len(images) for images in info.splits.values()] == [15, 5]
  assert info.validation_fraction == 0.25
  held_out = [
    [image.path for image in listed(seed=seed).splits["validation"]]
    for seed in (3, 3, 4)
  ]
  assert held_out[0] == held_out[1] != held_out[2]
  assert list(listed(validation_fraction=0).splits) == ["train"]


def test_categories_keep_their_ids_on_request(tmp_path):
  root = helpers_coco.write(tmp_path / "coco")
  info = prepared(root, tmp_path / "out", keep_category_ids=True).info
  assert info.num_classes == 19
  assert info.label_names[3] == "car"
  assert info.label_names[17] == "unused 17"
  assert info.category_ids == [*[0] * 3, 3, *[0] * 14, 18]
  labels = decoded(tmp_path / "out")[1]["groundtruth_classes"].numpy()
  assert labels.tolist() == [18, 3]
  with pytest.raises(UserError, match=r"holds a data set that differs in .*checksum"):
    prepared(root, tmp_path / "out")


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(tmp_path):
  root = Path(helpers_coco.write(tmp_path / "coco"))
  zipped(root)
  prepared(root, tmp_path / "one", num_processes=1, num_train_shards=3)
  prepared(root, tmp_path / "two", num_processes=2, num_train_shards=3)
  assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_a_preparation_that_was_interrupted_goes_on(tmp_path):
  root = helpers_coco.write(tmp_path / "coco")
  bad = BOX(99, 2, (0, 0, 0, 5))
  made = helpers_coco.content()
  made["annotations"].append(bad)
  helpers_coco.write_json(Path(root, "annotations/instances_train2017.json"), made)
  options = prepare.PreparationOptions(
    root, str(tmp_path / "out"), "coco", num_train_shards=4
  )

  def interrupt(done, total):
    if done >= 6:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    prepare.prepare(options, interrupt)
  result = prepare.prepare(options)
  assert result.num_kept >= 6
  whole = dataclasses.replace(options, output_dir=str(tmp_path / "whole"))
  assert prepare.prepare(whole).info == result.info
  assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def prepared_boxes(tmp_path, *annotations, image=None, **options):
  """Prepares one image with these boxes, beside others with good ones."""
  made = helpers_coco.content(6)
  made["annotations"] = [a for a in made["annotations"] if a["image_id"] != 1]
  made["annotations"] += annotations
  if image:
    made["images"][0] |= image
  root = helpers_coco.write(tmp_path / "coco", made)
  result = prepared(root, tmp_path / "out", **options)
  return result, decoded(tmp_path / "out").get(1)


@pytest.mark.parametrize(
  ("bbox", "expected", "warning"),
  [
    ((30, 6, 10, 12), [6, 30, 18, 36], boxes.CLIPPED),
    ((-5, -5, 10, 10), [0, 0, 5, 5], boxes.CLIPPED),
    ((30, 6, 6.001, 12), [6, 30, 18, 36], None),
    ((40, 6, 10, 12), None, boxes.OUTSIDE),
    ((4, 6, -3, 12), None, boxes.NO_AREA),
    ((4, 6, 0, 12), None, boxes.NO_AREA),
    ((4, 6, 3), None, boxes.NOT_FINITE),
    ((4, 6, "3", 4), None, boxes.NOT_FINITE),
    ((4, 6, float("nan"), 4), None, boxes.NOT_FINITE),
    ((4, 6, float("inf"), 4), None, boxes.NOT_FINITE),
    ((4, 6, 10**400, 4), None, boxes.NOT_FINITE),
  ],
)
def test_bad_boxes_are_clipped_or_dropped_and_counted(
  tmp_path, bbox, expected, warning
):
  result, example = prepared_boxes(tmp_path, BOX(90, 1, bbox))
  counted = [line for line in result.info.warnings if warning and warning in line]
  assert counted == ([f"1 {warning} (the first: train2017/001.jpg)"] * bool(warning))
  found = example["groundtruth_boxes"].numpy() * [24, 36, 24, 36]
  np.testing.assert_allclose(found, [expected] if expected else np.zeros((0, 4)))
  lost = any(boxes.LOST_ALL in line for line in result.info.warnings)
  assert lost == (expected is None)  # the image is kept, without objects
  text = result.summary()
  assert (warning or "warning") in text or not warning


@pytest.mark.parametrize("area", [None, -4, "big", float("nan")])
def test_an_area_that_is_not_stated_is_the_box_s(tmp_path, area):
  entry = BOX(90, 1, (30, 6, 10, 12), area=area)
  _, example = prepared_boxes(tmp_path, entry)
  assert example["groundtruth_area"].numpy().tolist() == [72]


def test_an_rle_mask_and_a_box_without_one_are_read(tmp_path):
  rle = {"counts": [10, 20, 30], "size": [24, 36]}
  crowd = BOX(90, 1, (0, 0, 9, 9), iscrowd=1, segmentation=rle)
  plain = BOX(91, 1, (0, 0, 8, 8))
  del plain["segmentation"], plain["iscrowd"], plain["area"], plain["id"]
  _, example = prepared_boxes(tmp_path, crowd, plain)
  assert example["groundtruth_is_crowd"].numpy().tolist() == [True, False]
  assert example["groundtruth_area"].numpy().tolist() == [77, 64]


def test_boxes_of_unknown_categories_and_images_are_dropped(tmp_path):
  wrong = [BOX(90, 1, category=7), BOX(91, 1, category="dog"), BOX(92, 500)]
  result, example = prepared_boxes(tmp_path, *wrong, BOX(93, 1))
  assert len(example["groundtruth_boxes"]) == 1
  where = "(the first: annotations/instances_train2017.json)"
  assert result.info.warnings == [
    f"1 boxes are of an image that is not listed: dropped {where}",
    f"2 boxes are of an unknown category: dropped {where}",
  ]
  with pytest.raises(UserError, match=r"not listed.*--strict"):
    prepared(tmp_path / "coco", tmp_path / "strict", strict=True)


def test_strict_stops_at_a_box_that_would_be_dropped(tmp_path):
  with pytest.raises(UserError, match=r"001.jpg: boxes are inverted.*--strict"):
    prepared_boxes(tmp_path, BOX(90, 1, (4, 6, -3, 12)), strict=True)


def test_repeated_ids(tmp_path):
  """The same box twice is one; other boxes with its id are kept."""
  twice = [BOX(90, 1), BOX(90, 1), BOX(90, 1, (0, 0, 3, 3)), BOX(90, 2, (0, 0, 4, 4))]
  result, example = prepared_boxes(tmp_path, *twice)
  assert len(example["groundtruth_boxes"]) == 2
  assert result.info.warnings[0].endswith(
    "2 boxes share their id with another box: kept"
  )
  assert result.info.warnings[1].startswith("1 boxes are repeated, id and all: dropped")


def test_the_image_s_own_size_counts(tmp_path):
  size = {"height": 480, "width": 640}
  result, example = prepared_boxes(tmp_path, BOX(90, 1), image=size)
  assert (example["height"], example["width"]) == (24, 36)
  np.testing.assert_allclose(
    example["groundtruth_boxes"], [[6 / 24, 4 / 36, 18 / 24, 14 / 36]], rtol=1e-6
  )
  assert f"1 {boxes.OTHER_SIZE} (the first: train2017/001.jpg)" in result.info.warnings


def test_many_boxes_and_16_bit_images_are_said(tmp_path):
  many = [BOX(1000 + i, 1, (i % 20, i % 7, 5, 6)) for i in range(101)]
  made = helpers_coco.content(3, many)
  root = helpers_coco.write(tmp_path / "coco", made)
  deep = np.arange(24 * 36, dtype=np.uint16).reshape(24, 36)
  Path(root, "train2017/001.jpg").write_bytes(helpers_images.encoded("PNG", deep))
  info = prepared(root, tmp_path / "out").info
  assert len(decoded(tmp_path / "out")[1]["groundtruth_boxes"]) == 101
  assert f"1 {boxes.MANY} (the first: train2017/001.jpg)" in info.warnings
  assert any(line.startswith("16-bit images use 10 bits") for line in info.warnings)


def test_images_without_boxes_are_kept(tmp_path):
  result, example = prepared_boxes(tmp_path)
  assert example["groundtruth_boxes"].shape == (0, 4)
  assert result.info.splits["train"].num_examples == 6
  assert f"1 {boxes.NO_OBJECTS} (the first: train2017/001.jpg)" in result.info.warnings


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_an_upright_image_are_turned_back(tmp_path, orientation):
  """Annotation tools show an image as EXIF says; decoders in an export do not."""
  pixels = np.zeros((24, 36, 3), np.uint8)
  pixels[4:10, 20:33] = 255
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  data = helpers_images.encoded("JPEG", pixels, exif=exif, quality=95)
  (tmp_path / "upright.jpg").write_bytes(data)
  with Image.open(tmp_path / "upright.jpg") as opened:
    upright = np.asarray(ImageOps.exif_transpose(opened).convert("L")) > 128
  rows, columns = np.flatnonzero(upright.any(1)), np.flatnonzero(upright.any(0))
  bbox = (columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0])
  entry = BOX(1, 1, [int(value) for value in bbox])
  made = helpers_coco.content(1, [entry])
  made["images"][0] |= {"height": 36, "width": 24}
  root = helpers_coco.write(tmp_path / "coco", made)
  Path(root, "train2017/001.jpg").write_bytes(data)
  result = prepared(root, tmp_path / "out")
  example = decoded(tmp_path / "out")[1]
  found = example["groundtruth_boxes"].numpy() * [24, 36, 24, 36]
  np.testing.assert_allclose(found, [[4, 20, 10, 33]], atol=1)
  assert any(boxes.TURNED in line for line in result.info.warnings)


def test_missing_and_bad_images_are_skipped_and_listed(tmp_path):
  root = Path(helpers_coco.write(tmp_path / "coco"))
  (root / "train2017/002.jpg").unlink()
  (root / "train2017/003.jpg").write_bytes(helpers_images.jpeg(1)[:500])
  info = prepared(root, tmp_path / "out").info
  skipped = {entry["file"]: entry["reason"] for entry in info.skipped}
  assert set(skipped) == {"002.jpg", "train2017/003.jpg"}
  assert skipped["002.jpg"] == (
    "listed in annotations/instances_train2017.json, but not in the input"
  )
  assert info.splits["train"].num_examples == 10
  assert info.splits["train"].boxes_per_class == [0, 10, 10]


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/secret.jpg", "a/../../x.jpg"])
def test_names_do_not_lead_out_of_the_input(tmp_path, name):
  made = helpers_coco.content(3)
  root = helpers_coco.write(tmp_path / "coco", made)
  helpers_coco.write_images(tmp_path, {"images": [{"file_name": "secret.jpg"}]})
  made["images"].append(helpers_coco.image(50, file_name=name))
  helpers_coco.write_json(Path(root, "annotations/instances_train2017.json"), made)
  info = prepared(root, tmp_path / "out").info
  assert [entry["file"] for entry in info.skipped] == [name]


def without(key):
  return {k: v for k, v in helpers_coco.content().items() if k != key}


def changed(**changes):
  return helpers_coco.content(2) | changes


TWICE = [helpers_coco.image(1), helpers_coco.image(1, file_name="other.jpg")]
SAME_NAME = [helpers_coco.image(1), helpers_coco.image(2, file_name="001.jpg")]


@pytest.mark.parametrize(
  ("made", "message"),
  [
    (b"", "is not a JSON object"),
    (b"[]", "is not a JSON object"),
    (b"\xff\xfe{", "is no UTF-8 text"),
    (json.dumps(helpers_coco.content()).encode()[:-200], "is cut off|is no JSON"),
    (json.dumps(helpers_coco.content()).encode()[:700], "is cut off|is no JSON"),
    (json.dumps(helpers_coco.content()).encode() + b"x", "goes on after its end"),
    (b'{"images": ' + b"[" * 100_000, "is no JSON"),
    (without("images"), "has no 'images'"),
    (without("annotations"), "has no 'annotations'"),
    (without("categories"), "has no 'categories'"),
    (changed(images=[]), "has an empty list 'images'"),
    (changed(categories=[]), "has an empty list 'categories'"),
    (changed(images={}), "has in 'images' something other than a list"),
    (changed(images=[5]), "'images' an entry, number 0"),
    (changed(images=[{"id": 1}]), "number 0, .*: no 'file_name'"),
    (changed(images=[{"id": 1, "file_name": 3}]), "'file_name' is 3, not str"),
    (changed(annotations=[{"id": 3}]), "'annotations' an entry, .*: no 'image_id'"),
    (changed(annotations=[BOX(1, [])]), "'annotations' an entry, number 0"),
    (changed(annotations=["x"]), "'annotations' an entry, number 0"),
    (changed(categories=[{"id": "a", "name": "x"}]), "'id' is 'a', not int"),
    (
      changed(categories=[{"id": 1, "name": "x"}, {"id": 1, "name": "y"}]),
      "gives the id 1 to two categories, 'x' and 'y'",
    ),
    (changed(categories=[{"id": 1, "name": "\ud800"}]), "surrogates not allowed"),
    (changed(images=[{"id": 1, "file_name": "\ud800"}]), "surrogates not allowed"),
    (changed(images=TWICE), "gives the id 1 to two images, '001.jpg' and 'other.jpg'"),
    (
      changed(images=SAME_NAME),
      "lists the image '001.jpg' twice, with the ids 1 and 2",
    ),
  ],
)
def test_a_file_that_is_not_coco_s_is_one_message(tmp_path, made, message):
  root = Path(helpers_coco.write(tmp_path / "coco"))
  helpers_coco.write_json(root / "annotations/instances_train2017.json", made)
  with pytest.raises(UserError, match=message) as caught:
    prepared(root, tmp_path / "out")
  assert "instances_train2017.json" in str(caught.value)
  assert "COCO's format" in str(caught.value)


def test_splits_with_other_categories_are_refused(tmp_path):
  other = [{"id": 18, "name": "dog"}, {"id": 4, "name": "car"}]
  validation = helpers_coco.content(2, categories=other)
  root = helpers_coco.write(tmp_path / "coco", validation=validation)
  with pytest.raises(
    UserError, match=r"category 4, 'car', which .*train2017.json lacks"
  ):
    prepared(root, tmp_path / "out")


def test_no_usable_box_to_train_on_is_an_error(tmp_path):
  made = helpers_coco.content(3, [BOX(1, 1, (90, 90, 2, 2))])
  root = helpers_coco.write(tmp_path / "coco", made)
  message = r"has a usable annotation\. Left out: 1 boxes lie outside.*001.jpg"
  with pytest.raises(UserError, match=message):
    prepared(root, tmp_path / "out")


def test_ids_that_are_no_numbers_are_replaced(tmp_path):
  made = helpers_coco.content(0, [BOX(1, "b", (0, 0, 5, 5)), BOX(2, "a")])
  made["images"] = [helpers_coco.image("a"), helpers_coco.image("b")]
  root = helpers_coco.write(tmp_path / "coco", made)
  info = prepared(root, tmp_path / "out").info
  found = examples(tmp_path / "out")
  assert found[2]["image/filename"] == [b"train2017/b.jpg"]
  assert found[2]["image/object/area"][0] == 77
  assert "images are numbered from 1 in their place" in info.warnings[0]


def unclear(root):
  old = root / "annotations/instances_train2017.json"
  (root / "annotations/instances_train2014.json").write_bytes(old.read_bytes())


def no_train(root):
  (root / "annotations/instances_train2017.json").rename(
    root / "annotations/instances_val2014.json"
  )
  (root / "annotations/instances_val2017.json").rename(
    root / "annotations/instances_test.json"
  )


def no_json(root):
  for path in (root / "annotations").iterdir():
    path.unlink()


def other_zip(root):
  zipped(root)
  with zipfile.ZipFile(root / "train2017.zip", "w") as made:
    made.writestr("train2017/other.jpg", b"x")


def no_images(root):
  (root / "train2017").rename(root / "moved")
  for path in (root / "moved").iterdir():
    path.unlink()


def cut_zip(root):
  zipped(root)
  data = (root / "train2017.zip").read_bytes()
  (root / "train2017.zip").write_bytes(data[: len(data) // 2])


def cut_annotations(root):
  zipped(root)
  path = root / "annotations_trainval2017.zip"
  data = bytearray(path.read_bytes())
  data[200] ^= 1
  path.write_bytes(data)


def pipe(root):
  (root / "annotations/instances_train2017.json").unlink()
  os.mkfifo(root / "annotations/instances_train2017.json")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (unclear, "instances_train2014.json', .* is of train is not clear"),
    (no_train, "has no annotation file to train on: 'annotations/instances_"),
    (no_json, "has no annotation file to train on: none at all; expected are"),
    (no_images, "none of the images that .* lists, such as '001.jpg': looked in"),
    (other_zip, r"none of the images that .* lists, such as '001\.jpg'. Complete"),
    (cut_zip, "train2017.zip cannot be read as a zip file"),
    (cut_annotations, "annotations_trainval2017.zip"),
    (pipe, "instances_train2017.json is no file"),
  ],
)
def test_what_is_missing_or_unclear_is_said(tmp_path, change, message):
  root = Path(helpers_coco.write(tmp_path / "coco"))
  change(root)
  with pytest.raises(UserError, match=message):
    prepared(root, tmp_path / "out")


@pytest.mark.parametrize("identity", [0, -2, 99_999])
def test_ids_that_cannot_be_labels_are_not_kept(tmp_path, identity):
  names = [{"id": identity, "name": "x"}]
  made = helpers_coco.content(2, [BOX(1, 1, category=identity)], categories=names)
  root = helpers_coco.write(tmp_path / "coco", made, made)
  assert prepared(root, tmp_path / "out").info.category_ids == [0, identity]
  with pytest.raises(UserError, match=f"the category id {identity} of 'x' cannot"):
    prepared(root, tmp_path / "kept", keep_category_ids=True)
