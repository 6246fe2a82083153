import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from mnv2_hpu.data_preparation import digit_scenes, prepare
from mnv2_hpu.data_preparation.digit_scenes import scene
from mnv2_hpu.errors import UserError

NUM_TRAIN, NUM_VALIDATION = 60, 20


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  folder = tmp_path_factory.mktemp("scenes") / "out"
  counts = digit_scenes.write_scenes(str(folder), NUM_TRAIN, NUM_VALIDATION, seed=5)
  assert counts == {"train": NUM_TRAIN, "val": NUM_VALIDATION}
  return folder


def annotated(root, split="train"):
  return json.loads((root / f"annotations/instances_{split}.json").read_text())


def mask_of(root, index, split="train"):
  return np.asarray(Image.open(root / f"masks/{split}/{index:05d}.png"))


def digests(root, pattern):
  return {
    str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(root.glob(pattern))
  }


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(root, tmp_path):
  for name, seed in (("same", 5), ("other", 6)):
    digit_scenes.write_scenes(str(tmp_path / name), 3, 2, seed=seed)
  same = digests(tmp_path / "same", "*/*/*.*")
  assert len(same) == 10
  assert same.items() <= digests(root, "*/*/*.*").items()  # whatever their number
  other = digests(tmp_path / "other", "*/*/*.*")
  assert not set(same.values()) & set(other.values())


def test_fewer_scenes_leave_none_of_more_behind(tmp_path):
  for number in (3, 1):
    digit_scenes.write_scenes(str(tmp_path), number, number)
  assert len(list(tmp_path.glob("*/*/*.*"))) == 4


def test_scenes_are_as_they_are_described(root):
  content = annotated(root)
  heights, widths = np.array([a["bbox"] for a in content["annotations"]]).T[[3, 2]]
  assert heights.max() / heights.min() >= 4
  per_image = np.bincount([a["image_id"] for a in content["annotations"]])[1:]
  assert len(per_image) == NUM_TRAIN
  assert per_image.min() >= 1
  assert 3 < per_image.mean() < 7
  assert {a["category_id"] for a in content["annotations"]} == set(range(1, 11))
  assert [c["name"] for c in content["categories"]] == list("0123456789")
  ids = [a["id"] for a in content["annotations"]]
  assert len(set(ids)) == len(ids)
  assert (widths > 2).all()


def test_boxes_hold_the_pixels_that_masks_label(root):
  content = annotated(root)
  shape = content["images"][0]["height"], content["images"][0]["width"]
  num_hidden = 0
  for index in range(1, NUM_TRAIN + 1):
    labels = mask_of(root, index)
    assert labels.shape == shape == (160, 160)
    boxes = [a for a in content["annotations"] if a["image_id"] == index]
    inside = np.zeros(shape, bool)
    for entry in boxes:
      x, y, width, height = entry["bbox"]
      assert 0 <= x < x + width <= shape[1]
      assert 0 <= y < y + height <= shape[0]
      part = np.s_[y : y + height, x : x + width]
      inside[part] = True
      own = (labels[part] == entry["category_id"]).sum()
      num_hidden += own < 0.5 * entry["area"]
    assert set(np.unique(labels[~inside])) <= {0, 255}
    present = set(np.unique(labels)) - {0, 255}
    assert present <= {entry["category_id"] for entry in boxes}
    ignored = (labels == 255).mean()
    assert 0 < ignored < 0.6 * (labels > 0).mean()
  assert num_hidden < 0.2 * len(content["annotations"])


def test_digits_overlap_now_and_then_and_never_much(root):
  content = annotated(root)
  shared = []
  for index in range(1, NUM_TRAIN + 1):
    boxes = np.array(
      [a["bbox"] for a in content["annotations"] if a["image_id"] == index]
    )
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    overlap = scene._overlap(corners, corners)
    for i in range(len(corners)):
      others = np.delete(corners, i, axis=0)
      shared.append(scene._overlap(corners[i : i + 1], others)[0])
    assert overlap.min() >= 1  # each covers itself
  assert max(shared) <= 0.25
  assert np.mean(np.array(shared) > 0.02) > 0.1


def test_no_handwriting_is_in_both_splits():
  parts = digit_scenes._handwriting(seed=3)
  train, validation = (
    {image.tobytes() for images in parts[split] for image in images}
    for split in ("train", "val")
  )
  images = datasets.load_digits().images
  assert not train & validation
  assert train | validation == {(image / 16).tobytes() for image in images}
  assert 0.15 < len(validation) / len(images) < 0.25


def test_ink_stands_out_from_what_is_behind_it(root):
  contrasts = []
  for index in range(1, NUM_TRAIN + 1):
    pixels = np.asarray(
      Image.open(root / f"images/train/{index:05d}.jpg").convert("L"), np.float32
    )
    labels = mask_of(root, index)
    contrasts += [
      abs(pixels[labels == label].mean() - pixels[labels == 0].mean())
      for label in set(np.unique(labels)) - {0, 255}
    ]
  assert np.percentile(contrasts, 10) > 40


def test_scenes_pass_through_the_preparation(root, tmp_path):
  output = tmp_path / "records"
  options = prepare.PreparationOptions(str(root), str(output), "coco")
  info = prepare.prepare(options).info
  assert info.label_names == list(digit_scenes.CLASS_NAMES)
  assert info.skipped == info.converted == info.warnings == []
  for split, folder in (("train", "train"), ("validation", "val")):
    entries = annotated(root, folder)["annotations"]
    counted = np.bincount([e["category_id"] for e in entries], minlength=11)
    assert info.splits[split].boxes_per_class == counted.tolist()


@pytest.mark.parametrize("size", [(64, 64), (96, 224)])
def test_scenes_of_other_sizes(tmp_path, size):
  digit_scenes.write_scenes(str(tmp_path), 4, 1, size)
  for path in Path(tmp_path).glob("*/*/*.*"):
    assert Image.open(path).size == size[::-1]


@pytest.mark.parametrize(("number", "size"), [(0, (160, 160)), (3, (160, 32))])
def test_scenes_that_cannot_be_made(tmp_path, number, size):
  with pytest.raises(UserError, match="cannot be made: allowed are 64 pixels"):
    digit_scenes.write_scenes(str(tmp_path), number, 1, size)
