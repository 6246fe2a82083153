from pathlib import Path

import helpers_images
import helpers_masks
import helpers_sources
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu import tfrecord
from mnv2_hpu.data_preparation import prepare
from mnv2_hpu.errors import UserError

# Of cityscapesScripts' labels.py: some ids, and their train ids.
IDS = {
  0: 255,
  4: 255,
  7: 0,
  8: 1,
  9: 255,
  11: 2,
  14: 255,
  24: 11,
  26: 13,
  31: 16,
  33: 18,
}


def ids(seed):
  return np.random.default_rng(seed).choice(list(IDS), (24, 36)).astype(np.uint8)


def write(root, endings=("labelIds",), splits=("train", "val")):
  for split in splits:
    for index in range(3):
      name = f"{split}/bonn/bonn_{index:06d}_000019"
      files = {f"leftImg8bit/{name}_leftImg8bit.png": helpers_images.encoded("PNG")}
      for ending in ("labelIds", "labelTrainIds", "color"):
        if ending in endings:
          made = ids(index)
          if ending != "labelIds":
            made = np.vectorize(IDS.get)(made).astype(np.uint8)
          files[f"gtFine/{name}_gtFine_{ending}.png"] = helpers_masks.png(made)
      for path, data in files.items():
        Path(root, path).parent.mkdir(parents=True, exist_ok=True)
        Path(root, path).write_bytes(data)
  return root


def listed(root):
  return helpers_sources.listed("cityscapes", root)


def stored(output):
  """The labels of the training masks, by the file of the image."""
  found = {}
  for path in map(str, Path(output).glob("train-*")):
    for record in tf.data.TFRecordDataset(path):
      example = tfrecord.parse_example(record.numpy())
      mask = tf.io.decode_png(example["image/segmentation/class/encoded"][0], 1)
      found[example["image/filename"][0].decode()] = mask.numpy()[..., 0]
  return found


@pytest.mark.parametrize(
  "endings", [("labelIds", "color"), ("labelIds", "labelTrainIds")]
)
def test_labels_are_the_train_ids(tmp_path, endings):
  write(tmp_path / "in", endings)
  options = prepare.PreparationOptions(
    str(tmp_path / "in"), str(tmp_path / "out"), "cityscapes"
  )
  info = prepare.prepare(options).info
  assert info.num_classes == 19
  assert info.label_names[13] == "car"
  assert [split.num_examples for split in info.splits.values()] == [3, 3]
  assert info.skipped == []
  for index in range(3):
    name = f"leftImg8bit/train/bonn/bonn_{index:06d}_000019_leftImg8bit.png"
    np.testing.assert_array_equal(
      stored(tmp_path / "out")[name], np.vectorize(IDS.get)(ids(index))
    )


def test_values_that_are_no_ids_are_found(tmp_path):
  write(tmp_path / "in")
  path = tmp_path / "in/gtFine/train/bonn/bonn_000001_000019_gtFine_labelIds.png"
  path.write_bytes(helpers_masks.png(np.full((24, 36), 40, np.uint8)))
  options = prepare.PreparationOptions(
    str(tmp_path / "in"), str(tmp_path / "out"), "cityscapes"
  )
  (skipped,) = prepare.prepare(options).info.skipped
  assert "the mask has the labels 40; the classes have 0 to 18" in skipped["reason"]


def test_images_without_mask_are_listed(tmp_path):
  write(tmp_path)
  (tmp_path / "gtFine/val/bonn/bonn_000002_000019_gtFine_labelIds.png").unlink()
  found = listed(tmp_path)
  assert len(found.splits["validation"]) == 2
  assert found.skipped[0]["reason"] == "it has no mask"


@pytest.mark.parametrize(
  ("folder", "message"),
  [
    ("leftImg8bit", "has no folder leftImg8bit; expected are"),
    ("gtFine", "has no folder gtFine; expected are"),
    ("leftImg8bit/train", "leftImg8bit has no folder train; expected are"),
    ("gtFine/train", "has no image with a mask to train on"),
  ],
)
def test_what_is_missing_is_said(tmp_path, folder, message):
  write(tmp_path)
  (tmp_path / folder).rename(tmp_path / "moved")
  with pytest.raises(UserError, match=message):
    listed(tmp_path)
