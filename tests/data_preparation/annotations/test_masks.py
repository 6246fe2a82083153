import dataclasses
import hashlib
import io
from pathlib import Path

import helpers_images
import helpers_masks
import numpy as np
import pytest
import tensorflow as tf
from official.vision.dataloaders import segmentation_input
from PIL import ExifTags, Image, ImageOps

from mnv2_hpu.data_preparation import digit_scenes, prepare, verify
from mnv2_hpu.data_preparation.annotations import masks
from mnv2_hpu.data_preparation.images import BadImageError
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo
from mnv2_hpu.errors import UserError

MASK = "masks/train/003.png"


def prepared(root, output, **changes):
  options = prepare.PreparationOptions(str(root), str(output), "masks", **changes)
  return prepare.prepare(options)


def decoded(output, split="train"):
  """The examples of a split as Model Garden decodes them."""
  shards = sorted(map(str, Path(output).glob(f"{split}-*-of-*")))
  decoder = segmentation_input.Decoder()
  return [decoder.decode(record) for record in tf.data.TFRecordDataset(shards)]


def stored_masks(output, split="train"):
  """The masks of a split as TensorFlow decodes them, by their bytes."""
  return {
    tf.io.decode_png(e["image/segmentation/class/encoded"], 1).numpy()[..., 0].tobytes()
    for e in decoded(output, split)
  }


@pytest.fixture
def root(tmp_path):
  helpers_masks.write(tmp_path / "in", "train")
  return helpers_masks.write(tmp_path / "in", "val", 3, first=100)


def test_model_garden_decodes_the_labels(root, tmp_path):
  info = prepared(root, tmp_path / "out").info
  assert info == DatasetInfo.load(tmp_path / "out")
  assert info.task == "segmentation"
  assert info.label_names == ["background", "cat", "dog"]
  assert info.warnings == info.skipped == []
  assert stored_masks(tmp_path / "out") == {
    helpers_masks.labels(i).tobytes() for i in range(8)
  }
  counted = sum(
    np.bincount(helpers_masks.labels(i).ravel(), minlength=256)[:3] for i in range(8)
  )
  assert info.splits["train"].pixels_per_class == counted.tolist()
  assert info.splits["validation"].num_examples == 3
  parser = segmentation_input.Parser([48, 72], aug_rand_hflip=True)
  for example in decoded(tmp_path / "out"):
    image, labels = parser.parse_fn(is_training=True)(example)
    assert image.shape == (48, 72, 3)
    assert labels["masks"].shape == (48, 72, 1)
  assert verify.verify(str(tmp_path / "out"), deep=True).problems == []


def test_a_palette_s_indices_are_the_labels(tmp_path):
  root = helpers_masks.write(tmp_path / "in", mode="P")
  info = prepared(root, tmp_path / "out", validation_fraction=0).info
  assert stored_masks(tmp_path / "out") == {
    helpers_masks.labels(i).tobytes() for i in range(8)
  }
  assert info.warnings == []  # it is what VOC has


def test_masks_of_an_unusual_form_are_said(root, tmp_path):
  data = helpers_masks.png(helpers_masks.labels(3), "RGB")
  (root / MASK).write_bytes(data)
  info = prepared(root, tmp_path / "out").info
  assert info.warnings == [
    f"1 {masks.EQUAL_CHANNELS} (the first: images/train/003.jpg)"
  ]


@pytest.mark.parametrize("split", ["val", "valid", "validation", "test"])
def test_splits_may_come_first(tmp_path, split):
  for name, number in (("train", 4), (split, 2)):
    made = helpers_masks.write(tmp_path / "in" / name, number=number)
    (made / "classes.txt").rename(tmp_path / "in/classes.txt")
  info = prepared(tmp_path / "in", tmp_path / "out").info
  assert [s.num_examples for s in info.splits.values()] == [4, 2]


def test_without_splits_a_fraction_is_held_out(tmp_path):
  root = helpers_masks.write(tmp_path / "in")
  info = prepared(root, tmp_path / "out", validation_fraction=0.25).info
  assert [s.num_examples for s in info.splits.values()] == [6, 2]
  assert info.validation_fraction == 0.25


def bits(number):
  values = np.arange(24 * 36).reshape(24, 36) % min(1 << number, 3)
  return values, helpers_masks.gray_png(values, number)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_gray_of_few_bits_is_read_as_it_is(number):
  values, data = bits(number)
  mask = masks.decode(data)
  assert mask.remark == masks.FEW_BITS
  np.testing.assert_array_equal(mask.labels, values)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_equal_channels_are_one(mode):
  labels = helpers_masks.labels()
  mask = masks.decode(helpers_masks.png(labels, mode))
  assert mask.remark == masks.EQUAL_CHANNELS
  np.testing.assert_array_equal(mask.labels, labels)


COLORS = helpers_images.encoded("PNG", helpers_images.pixels())
WIDE = np.zeros((24, 36), int)


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (COLORS, "the mask has colors, which are no labels: save it with a palette"),
    (helpers_masks.gray_png(WIDE, 16), "the mask has 16 bits a pixel; labels have 8"),
    (helpers_images.jpeg(), "the mask is no PNG"),
    (b"", "the mask is no PNG"),
    (b"\x89PNG\r\n\x1a\n", "the mask is no PNG"),
    (
      helpers_masks.png(helpers_masks.labels())[:70],
      "the mask is truncated or corrupt",
    ),
    (helpers_images.bomb_png(), "the mask has more than 89,478,485 pixels"),
    (
      helpers_masks.png(helpers_masks.labels(size=(24, 35))),
      "the mask is 24 pixels high and 35 wide, the image 24 and 36",
    ),
    (
      helpers_masks.png(np.full((24, 36), 3, np.uint8)),
      "the mask has the labels 3; the classes have 0 to 2, and 255 is ignored",
    ),
    (None, "it has no mask"),
  ],
)
def test_bad_masks_are_skipped_and_listed(root, tmp_path, data, reason):
  if data is None:
    (root / MASK).unlink()
  else:
    (root / MASK).write_bytes(data)
  info = prepared(root, tmp_path / "out").info
  (skipped,) = info.skipped
  assert skipped["file"] == "images/train/003.jpg"
  assert skipped["reason"].startswith(reason)
  assert info.splits["train"].num_examples == 7
  with pytest.raises(UserError, match=r"train/003\.jpg: .*--strict"):
    prepared(root, tmp_path / "strict", strict=True)


@pytest.mark.parametrize("orientation", range(5, 9))
def test_a_mask_of_the_upright_image_is_turned_back(root, tmp_path, orientation):
  """Annotation tools show an image as EXIF says; decoders in an export do not."""
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  stored = helpers_masks.labels(3)
  data = helpers_images.encoded("PNG", stored, exif=exif)
  with Image.open(io.BytesIO(data)) as image:
    upright = np.asarray(ImageOps.exif_transpose(image))
  (root / "images/train/003.jpg").write_bytes(helpers_images.jpeg(exif=exif))
  (root / MASK).write_bytes(helpers_masks.png(upright))
  info = prepared(root, tmp_path / "out").info
  assert stored.tobytes() in stored_masks(tmp_path / "out")
  assert f"1 {masks.TURNED} (the first: images/train/003.jpg)" in info.warnings


def test_a_mask_that_is_ignored_everywhere_is_said(root, tmp_path):
  everywhere = np.full(helpers_masks.SIZE, 255, np.uint8)
  (root / MASK).write_bytes(helpers_masks.png(everywhere))
  info = prepared(root, tmp_path / "out").info
  assert info.warnings == [f"1 {masks.ALL_IGNORED} (the first: images/train/003.jpg)"]


def test_masks_and_images_of_their_own_are_listed(root, tmp_path):
  (root / "masks/train/alone.png").write_bytes(helpers_masks.png(WIDE.astype(np.uint8)))
  (root / "images/val/alone.jpg").write_bytes(helpers_images.jpeg())
  skipped = prepared(root, tmp_path / "out").info.skipped
  assert skipped == [
    {"file": "images/val/alone.jpg", "reason": "it has no mask"},
    {"file": "masks/train/alone.png", "reason": "a mask without image"},
  ]


def remove(*names):
  def change(root):
    for name in names:
      for path in sorted(root.glob(name)):
        path.unlink()

  return change


def rename(one, other):
  return lambda root: (root / one).rename(root / other)


def write_names(data):
  return lambda root: (root / "classes.txt").write_bytes(data)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (remove("classes.txt"), "has no classes.txt. Write one"),
    (
      write_names(b""),
      "must name the classes, one a line, each once; received nothing",
    ),
    (write_names(b"a\nb\na\n"), "each once; received 'a'"),
    (write_names(b"a\n\nb\n"), "each once; received ''"),
    (write_names(b"\xff\xfe"), "classes.txt cannot be read as text"),
    (
      write_names("\n".join(map(str, range(256))).encode()),
      "names 256 classes; a mask",
    ),
    (rename("masks", "other"), "has no images to train on; expected are the folders"),
    (rename("images/train", "images/testing"), "has no images to train on"),
    (remove("masks/train/*"), "has no image with a mask to train on"),
  ],
)
def test_what_is_missing_or_wrong_is_said(root, tmp_path, change, message):
  change(root)
  with pytest.raises(UserError, match=message):
    prepared(root, tmp_path / "out")


def test_two_images_of_one_name_are_unclear(root, tmp_path):
  (root / "images/train/003.png").write_bytes(helpers_images.encoded("PNG"))
  with pytest.raises(UserError, match="differ in their suffix alone"):
    prepared(root, tmp_path / "out")


def test_a_preparation_that_was_interrupted_goes_on(root, tmp_path):
  options = prepare.PreparationOptions(
    str(root), str(tmp_path / "out"), "masks", num_train_shards=4
  )

  def interrupt(done, total):
    if done >= 4:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    prepare.prepare(options, interrupt)
  assert prepare.prepare(options).num_kept >= 4
  prepare.prepare(dataclasses.replace(options, output_dir=str(tmp_path / "whole")))
  one, other = (
    {p.name: hashlib.sha256(p.read_bytes()).digest() for p in (tmp_path / d).iterdir()}
    for d in ("out", "whole")
  )
  assert one == other


def test_scenes_of_digits_are_such_a_folder(tmp_path):
  digit_scenes.write_scenes(str(tmp_path / "in"), 6, 3)
  info = prepared(tmp_path / "in", tmp_path / "out").info
  assert info.label_names == list(digit_scenes.CLASS_NAMES)
  assert [s.num_examples for s in info.splits.values()] == [6, 3]
  assert info.skipped == []


def rewrite(path, change):
  examples = [
    tf.train.Example.FromString(record.numpy())
    for record in tf.data.TFRecordDataset(str(path))
  ]
  values = examples[0].features.feature["image/segmentation/class/encoded"]
  values.bytes_list.value[0] = change
  with tf.io.TFRecordWriter(str(path)) as writer:
    for example in examples:
      writer.write(example.SerializeToString())


@pytest.mark.parametrize(
  ("mask", "problem"),
  [
    (helpers_masks.png(np.full((24, 36), 3, np.uint8)), "label 3; allowed are 0 to 2"),
    (helpers_masks.png(np.zeros((24, 35), np.uint8)), "mask of 24x35 for an image of"),
    (helpers_masks.png(helpers_masks.labels(), "P"), "would not decode to labels"),
    (COLORS, "the mask has colors"),
    (b"", "holds no image in the feature 'image/segmentation/class/encoded'"),
  ],
)
def test_verification_finds_masks_that_do_not_fit(root, tmp_path, mask, problem):
  prepared(root, tmp_path / "out")
  (shard,) = (tmp_path / "out").glob("train-*")
  rewrite(shard, mask)
  found = verify.verify(str(tmp_path / "out")).problems
  assert found[0].startswith(f"{shard.name}: record 0")
  assert problem in found[0]


def test_verification_compares_the_pixels_with_dataset_json(root, tmp_path):
  prepared(root, tmp_path / "out")
  (shard,) = (tmp_path / "out").glob("train-*")
  rewrite(shard, helpers_masks.png(np.zeros((24, 36), np.uint8)))
  found = verify.verify(str(tmp_path / "out")).problems
  assert "pixels of class 0 ('background'), but dataset.json says" in found[0]


def test_a_decoded_mask_is_not_decoded_from_other_formats():
  data = helpers_images.encoded("BMP", helpers_masks.labels())
  with pytest.raises(BadImageError, match="no PNG"):
    masks.decode(data)
