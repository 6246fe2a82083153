import os

import helpers_images
import helpers_sources
import pytest

from mnv2_hpu.data_preparation import listing
from mnv2_hpu.errors import UserError


def listed(root, fraction=0.25, seed=0):
  return helpers_sources.listed(
    "image_folder", root, validation_fraction=fraction, seed=seed
  )


def test_labels_are_sorted_names_and_files_keep_their_class(tmp_path):
  helpers_images.write_folder(tmp_path, {"zebra": 4, "Ant": 4, "été": 4})
  listing = listed(tmp_path)
  assert listing.label_names == ["Ant", "zebra", "été"]
  for images in listing.splits.values():
    for image in images:
      assert image.path.split(os.sep)[0] == listing.label_names[image.label]


def test_split_is_exactly_stratified_disjoint_and_complete(tmp_path):
  counts = {"a": 8, "b": 21, "c": 1, "d": 2}
  helpers_images.write_folder(tmp_path, counts)
  listing = listed(tmp_path, fraction=0.25)
  held_out = [image.label for image in listing.splits["validation"]]
  assert [held_out.count(label) for label in range(4)] == [2, 5, 0, 1]
  paths = [image.path for images in listing.splits.values() for image in images]
  assert sorted(paths) == sorted(
    f"{n}/{i:03d}.jpg" for n in counts for i in range(counts[n])
  )
  assert listing.validation_fraction == 0.25


def test_the_seed_decides_what_is_held_out(tmp_path):
  helpers_images.write_folder(tmp_path, {"a": 20, "b": 20})
  once, again, other = (listed(tmp_path, 0.5, seed) for seed in (1, 1, 2))
  assert once.splits == again.splits
  assert once.splits["validation"] != other.splits["validation"]


def test_a_new_class_moves_no_other_image(tmp_path):
  helpers_images.write_folder(tmp_path, {"a": 20, "c": 20})
  before = {image.path for image in listed(tmp_path).splits["validation"]}
  helpers_images.write_folder(tmp_path, {"b": 20})
  after = {image.path for image in listed(tmp_path).splits["validation"]}
  assert {path for path in after if not path.startswith("b")} == before


@pytest.mark.parametrize("name", ["validation", "val", "valid", "test"])
def test_a_given_validation_split_is_taken(tmp_path, name):
  helpers_images.write_folder(tmp_path / "train", {"a": 3, "b": 2})
  helpers_images.write_folder(tmp_path / name, {"b": 1})
  listing = listed(tmp_path)
  assert {split: len(images) for split, images in listing.splits.items()} == {
    "train": 5,
    "validation": 1,
  }
  assert listing.splits["validation"][0][:2] == (f"{name}/b/000.jpg", 1)
  assert listing.validation_fraction is None


def test_train_alone_is_divided(tmp_path):
  helpers_images.write_folder(tmp_path / "train", {"a": 4, "b": 4})
  listing = listed(tmp_path)
  assert listing.label_names == ["a", "b"]
  assert len(listing.splits["validation"]) == 2


def test_a_class_may_be_called_train(tmp_path):
  helpers_images.write_folder(tmp_path, {"train": 3, "bus": 3})
  assert listed(tmp_path).label_names == ["bus", "train"]


def test_no_validation_split_on_request(tmp_path):
  helpers_images.write_folder(tmp_path, {"a": 3})
  assert list(listed(tmp_path, fraction=0).splits) == ["train"]


@pytest.mark.parametrize("train", ["Training", "TRAIN", "train_set", "train-images"])
@pytest.mark.parametrize("test", ["Testing", "VAL", "test1", "validation set"])
def test_common_names_of_splits_are_taken_in_any_case(tmp_path, train, test):
  helpers_images.write_folder(tmp_path / train, {"a": 3, "b": 2})
  helpers_images.write_folder(tmp_path / test, {"a": 1, "b": 1})
  listing = listed(tmp_path)
  assert listing.label_names == ["a", "b"]
  assert [len(images) for images in listing.splits.values()] == [5, 2]
  assert listing.validation_fraction is None


def test_what_lies_beside_splits_is_listed_and_changes_nothing(tmp_path):
  helpers_images.write_folder(
    tmp_path, {"train/a": 3, "train/b": 2, "val/a": 1, "unlabeled": 4, "notes/old": 1}
  )
  (tmp_path / "readme.txt").write_text("x")
  listing = listed(tmp_path)
  assert listing.label_names == ["a", "b"]
  assert {entry["file"] for entry in listing.skipped} == {
    "unlabeled",
    "notes",
    "readme.txt",
  }
  assert "beside the splits train and val" in listing.skipped[0]["reason"]


def test_hidden_and_system_files_are_ignored_and_counted(tmp_path):
  helpers_images.write_folder(
    tmp_path,
    {
      "a": 1,
      "a/deeper": 1,
      "a/@eaDir/000.jpg": 2,  # Synology: SYNOPHOTO_THUMB_M.jpg and others
      "a/.thumbnails": 2,
      "a/.AppleDouble": 1,
      ".git": 1,
      "__MACOSX": 1,
      "lost+found": 1,
      "$RECYCLE.BIN": 1,
    },
  )
  for name in (".DS_Store", "a/._000.jpg", "a/Thumbs.db", "a/SYNOPHOTO_THUMB_M.jpg"):
    (tmp_path / name).write_text("x")
  (tmp_path / "readme.txt").write_text("x")
  listing = listed(tmp_path, fraction=0)
  paths = [image.path for image in listing.splits["train"]]
  assert paths == ["a/000.jpg", "a/deeper/000.jpg"]
  assert listing.skipped == [
    {"file": "readme.txt", "reason": "not in the folder of a class"}
  ]
  (warning,) = listing.warnings
  assert "11 hidden or system files and folders are ignored" in warning
  assert "the most frequent: '$RECYCLE.BIN' (1), '.AppleDouble' (1)" in warning
  assert "'@eaDir' (1)" in warning
  assert "lost+found" not in warning  # ten are named


def test_linked_folders_and_files_are_followed(tmp_path):
  helpers_images.write_folder(tmp_path / "elsewhere", {"batch": 2, "more": 1})
  root = tmp_path / "in"
  helpers_images.write_folder(root, {"a": 1, "b": 1})
  (root / "b" / "batch1").symlink_to(tmp_path / "elsewhere" / "batch")
  (root / "b" / "linked.jpg").symlink_to(tmp_path / "elsewhere" / "more" / "000.jpg")
  (root / "c").symlink_to(tmp_path / "elsewhere" / "batch")  # a class
  images = listed(root, fraction=0).splits["train"]
  assert [image.path for image in images] == [
    "a/000.jpg",
    "b/000.jpg",
    "b/batch1/000.jpg",
    "b/batch1/001.jpg",
    "b/linked.jpg",
    "c/000.jpg",
    "c/001.jpg",
  ]


def test_links_that_lead_back_are_skipped(tmp_path):
  root = tmp_path / "in"
  helpers_images.write_folder(root, {"a": 1, "b": 1})
  for name, target in {"self": root / "a", "root": root, "above": tmp_path}.items():
    (root / "a" / name).symlink_to(target)
  (root / "b" / "loop").symlink_to("loop")
  listing = listed(root, fraction=0)
  assert [i.path for i in listing.splits["train"]] == [
    "a/000.jpg",
    "b/000.jpg",
    "b/loop",
  ]
  assert {entry["file"]: entry["reason"] for entry in listing.skipped} == dict.fromkeys(
    ["a/above", "a/root", "a/self"], "a link to a folder that holds it"
  )
  with pytest.raises(OSError, match="symbolic links"):
    listing.read(listing.splits["train"][2])


def test_checksum_follows_names_and_sizes(tmp_path):
  helpers_images.write_folder(tmp_path, {"a": 2})
  before = listed(tmp_path).checksum
  assert listed(tmp_path, seed=9).checksum == before
  (tmp_path / "a" / "000.jpg").write_bytes(b"shorter")
  assert listed(tmp_path).checksum != before


def test_a_pipe_is_not_waited_for(tmp_path):
  (tmp_path / "a").mkdir()
  os.mkfifo(tmp_path / "a" / "pipe.jpg")
  listing = listed(tmp_path)
  with pytest.raises(OSError, match="not a regular file"):
    listing.read(listing.splits["train"][0])


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda root: None, "input does not exist"),
    (lambda root: root.write_text("x"), "input is a file"),
    (lambda root: root.mkdir(), "input has no folders; expected is"),
    (lambda root: (root / "a").mkdir(parents=True), "no images in 'a'"),
    (
      lambda root: helpers_images.write_folder(root, {"a": 1, "b": 0}),
      "no images in 'b'. Add some, or remove",
    ),
    (
      lambda root: helpers_images.write_folder(root, {"train/a": 1, "val/b": 1}),
      "val has the class 'b', which train lacks",
    ),
    (
      lambda root: helpers_images.write_folder(
        root, {"train/a": 1, "val/a": 1, "test/a": 1}
      ),
      "has test and val: which of them to take for validation is not clear",
    ),
    (
      lambda root: helpers_images.write_folder(root, {"train": 2, "test1": 2}),
      "has only 'test1', 'train', which are names of splits, and no split to train on",
    ),
    (
      lambda root: helpers_images.write_folder(root, {"test/a": 2, "test/b": 2}),
      "has only 'test', which are names of splits, and no split to train on",
    ),
    (
      lambda root: helpers_images.write_folder(root, {"photos/a": 2, "photos/b": 2}),
      "holds one folder, 'photos', which holds only the folders 'a', 'b'.*photos",
    ),
    (
      lambda root: helpers_images.write_folder(
        root, {"train/train/a": 2, "train/train/b": 2, "val/a": 1}
      ),
      "train holds one folder, 'train', which holds only the folders 'a', 'b'",
    ),
    (
      lambda root: helpers_images.write_folder(
        root, {"seg_a/x": 1, "seg_a/y": 1, "seg_b/x": 1, "seg_b/y": 1}
      ),
      "all folders in .* hold the same folders 'x', 'y' and no image",
    ),
    (
      lambda root: [(root / n).mkdir(parents=True) for n in ("train", "val")],
      "has only 'train', 'val', which are names of splits",
    ),
  ],
)
def test_unusable_input_is_explained(tmp_path, make, message):
  make(tmp_path / "input")
  with pytest.raises(UserError, match=message):
    listed(tmp_path / "input")


@pytest.mark.parametrize("fraction", [-0.1, 1, 20])
def test_fraction_outside_the_unit_interval(fraction):
  with pytest.raises(UserError, match=f"--validation_fraction={fraction}"):
    listing.check_fraction(fraction)


def test_misspelt_source_is_answered_with_the_name():
  with pytest.raises(UserError, match="Did you mean 'image_folder'"):
    helpers_sources.listed("imagefolder", ".")
