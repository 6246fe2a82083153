from pathlib import Path

import helpers_images
import helpers_masks
import helpers_sources
import numpy as np
import pytest

from mnv2_hpu.data_preparation import prepare
from mnv2_hpu.errors import UserError


def write(root, sets=None, own=range(6), sbd=()):
  """Writes VOC's folders: masks of VOC's own, and of SBD."""
  for folder, indices, mode in (
    ("SegmentationClass", own, "P"),
    ("SegmentationClassAug", sbd, None),
  ):
    for index in indices:
      path = Path(root, folder, f"2007_{index:06d}.png")
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(helpers_masks.png(helpers_masks.labels(index), mode))
  for index in range(10):
    path = Path(root, "JPEGImages", f"2007_{index:06d}.jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(helpers_images.jpeg(index))
  sets = {"train": range(4), "val": (4, 5)} if sets is None else sets
  for name, indices in sets.items():
    path = Path(root, "ImageSets/Segmentation", f"{name}.txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"2007_{index:06d}\n" for index in indices))
  return root


def listed(root, **options):
  return helpers_sources.listed("voc_segmentation", root, **options)


def names(listing, split):
  return [Path(image.path).stem[-1] for image in listing.splits[split]]


@pytest.mark.parametrize("place", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc_s_lists_decide_the_splits(tmp_path, place):
  write(tmp_path / "in" / place)
  found = listed(tmp_path / "in")
  assert names(found, "train") == list("0123")
  assert names(found, "validation") == list("45")
  assert len(found.label_names) == 21
  assert found.label_names[:2] == ["background", "aeroplane"]
  assert found.validation_fraction is None


def test_its_records_are_prepared(tmp_path):
  write(tmp_path / "in")
  options = prepare.PreparationOptions(
    str(tmp_path / "in"), str(tmp_path / "out"), "voc_segmentation"
  )
  info = prepare.prepare(options).info
  assert info.num_classes == 21
  counted = sum(
    np.bincount(helpers_masks.labels(i).ravel(), minlength=256)[:21] for i in range(4)
  )
  assert info.splits["train"].pixels_per_class == counted.tolist()


def test_sbd_s_list_and_masks_are_taken_where_they_are(tmp_path):
  sets = {"train": range(4), "trainaug": [0, 1, 2, 3, 6, 7, 8], "val": (4, 5)}
  write(tmp_path, sets, sbd=[0, 6, 7])
  found = listed(tmp_path)
  assert names(found, "train") == list("012367")
  masks = {i.annotation.path for i in found.splits["train"]}
  assert "SegmentationClass/2007_000000.png" in masks  # VOC's own is the finer one
  assert "SegmentationClassAug/2007_000006.png" in masks
  assert found.skipped == [
    {"file": "2007_000008", "reason": "in the list of a split, but it has no mask"}
  ]


def test_trainval_alone_is_divided(tmp_path):
  write(tmp_path, {"trainval": range(6)})
  found = listed(tmp_path, validation_fraction=1 / 3)
  assert [len(images) for images in found.splits.values()] == [4, 2]


def test_without_lists_all_masks_are_taken(tmp_path):
  write(tmp_path, {})
  (tmp_path / "classes.txt").write_text("nothing\ncell\nwall\n")
  found = listed(tmp_path, validation_fraction=1 / 3)
  assert [len(images) for images in found.splits.values()] == [4, 2]
  assert found.label_names == ["nothing", "cell", "wall"]


def test_an_image_in_both_splits_is_refused(tmp_path):
  write(tmp_path, {"train": range(4), "val": (3, 4)})
  with pytest.raises(UserError, match=r"has 2007_000003 in train\.txt and in val\.txt"):
    listed(tmp_path)


def test_two_years_are_unclear(tmp_path):
  for year in ("VOC2007", "VOC2012"):
    write(tmp_path / "VOCdevkit" / year)
  with pytest.raises(UserError, match="which of them to take is not clear"):
    listed(tmp_path)


def test_what_is_missing_is_said(tmp_path):
  with pytest.raises(UserError, match="has no folder JPEGImages; expected are VOC's"):
    listed(tmp_path)
  write(tmp_path, own=())
  with pytest.raises(UserError, match="has no folder SegmentationClass"):
    listed(tmp_path)
  (tmp_path / "SegmentationClass").mkdir()
  with pytest.raises(UserError, match="no image with a mask to train on"):
    listed(tmp_path)
  write(tmp_path)
  lists = tmp_path / "ImageSets/Segmentation/train.txt"
  lists.write_bytes(b"\xff\xff")
  with pytest.raises(UserError, match="cannot be read as a list of names"):
    listed(tmp_path)
