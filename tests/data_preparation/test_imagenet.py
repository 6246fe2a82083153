import csv
import gzip
import io
import shutil
import struct
import tarfile
import zlib
from pathlib import Path

import helpers_imagenet as small
import helpers_images
import helpers_sources
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import io as scipy_io

from mnv2_hpu.data_preparation import prepare, shards, verify
from mnv2_hpu.errors import UserError

LABELS = "imagenet_2012_validation_synset_labels.txt"


def prepared(root, output, **changes):
  options = prepare.PreparationOptions(str(root), str(output), "imagenet", **changes)
  return prepare.prepare(options)


def records(output, split):
  """(label, synset, file name, encoded) of each record, read by TensorFlow."""
  paths = sorted(map(str, Path(output).glob(f"{split}-*-of-*")))
  keys = ("image/class/synset", "image/filename", "image/encoded")
  spec = {key: tf.io.FixedLenFeature([], tf.string) for key in keys}
  spec["image/class/label"] = tf.io.FixedLenFeature([], tf.int64)
  for record in tf.data.TFRecordDataset(paths):
    parsed = tf.io.parse_single_example(record, spec)
    texts = [parsed[key].numpy() for key in keys]
    yield (
      int(parsed["image/class/label"]),
      texts[0].decode(),
      texts[1].decode(),
      texts[2],
    )


def expected_records():
  train = {
    (label, synset, name, data)
    for label, (synset, files) in enumerate(small.train_images().items(), start=1)
    for name, data in files.items()
  }
  validation = {
    (1 + small.SYNSETS.index(synset), synset, name, data)
    for synset, (name, data) in zip(
      small.VALIDATION, small.validation_images().items(), strict=True
    )
  }
  return {"train": train, "validation": validation}


def write_archives(root):
  return small.write_archives(root)


def write_flat(root):
  small.write_folders(root, by_synset=False)
  (root / LABELS).write_text("\n".join(small.VALIDATION))
  return root


def write_by_synset(root):
  return small.write_folders(root, by_synset=True)


@pytest.mark.parametrize("write", [write_archives, write_flat, write_by_synset])
def test_every_image_has_the_label_of_its_synset(tmp_path, write):
  root = write(tmp_path / "in")
  before = sorted(root.rglob("*"))
  info = prepared(root, tmp_path / "out").info
  assert info.label_names == ["background", *small.SYNSETS]
  assert info.num_classes == 4
  assert info.splits["train"].examples_per_class == [0, 4, 4, 4]
  assert info.splits["validation"].examples_per_class == [0, 2, 2, 2]
  assert not info.skipped
  assert not info.converted
  for split, expected in expected_records().items():
    assert set(records(tmp_path / "out", split)) == expected
  assert sorted(root.rglob("*")) == before  # nothing was unpacked


def test_usual_numbers_of_shards_are_those_of_slim(tmp_path):
  listing = helpers_sources.listed("imagenet", small.write_archives(tmp_path))
  assert listing.num_shards == {"train": 1024, "validation": 128}
  plan = shards.choose_num_shards("train", 1_281_167, 0, listing.num_shards["train"])
  assert plan == 1024


def write_kaggle(root):
  with (root / "LOC_val_solution.csv").open("w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["ImageId", "PredictionString"])
    numbered = list(enumerate(small.VALIDATION, start=1))
    for number, synset in reversed(numbered):  # Kaggle's is in no order
      rows.writerow([f"ILSVRC2012_val_{number:08d}", f"{synset} 85 1 499 272 "])


def devkit():
  """meta.mat as the development kit has it: numbers that are not in the synsets' order,
  and inner nodes of WordNet after the classes."""
  order = [small.SYNSETS[i] for i in (2, 0, 1)]
  rows = [(i, synset, 0) for i, synset in enumerate(order, start=1)]
  rows.append((4, "n00001740", 2))
  kind = [("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)]
  buffer = io.BytesIO()
  scipy_io.savemat(buffer, {"synsets": np.array(rows, kind).reshape(-1, 1)})
  truth = "".join(f"{1 + order.index(synset)}\n" for synset in small.VALIDATION)
  return {
    "ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    "meta.mat": buffer.getvalue(),
  }


def write_devkit_tar(root):
  path = root / "ILSVRC2012_devkit_t12.tar.gz"
  with tarfile.open(path, "w:gz") as archive:
    for name, data in devkit().items():
      small.add(archive, f"ILSVRC2012_devkit_t12/data/{name}", data)


def write_devkit_folder(folder):
  def write(root):
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name, data in devkit().items():
      (root / folder / name).write_bytes(data)

  return write


@pytest.mark.parametrize(
  "write",
  [
    write_kaggle,
    write_devkit_tar,
    write_devkit_folder("ILSVRC2012_devkit_t12/data"),
    write_devkit_folder("data"),
    write_devkit_folder("."),
  ],
)
def test_every_list_of_validation_synsets_gives_the_same_labels(tmp_path, write):
  root = small.write_archives(tmp_path)
  expected = helpers_sources.listed("imagenet", root).splits["validation"]
  (root / LABELS).unlink()
  write(root)
  assert helpers_sources.listed("imagenet", root).splits["validation"] == expected


def test_the_png_and_the_cmyk_become_jpegs_and_nothing_else_is_re_encoded(tmp_path):
  train = small.train_images()
  odd = {
    "n01440764_png.JPEG": helpers_images.encoded("PNG"),
    "n01440764_cmyk.JPEG": helpers_images.encoded("JPEG", mode="CMYK"),
  }
  grey = {"n01440764_grey.JPEG": helpers_images.encoded("JPEG", mode="L")}
  train["n01440764"] |= odd | grey
  root = small.write_archives(tmp_path / "in", train)
  result = prepared(root, tmp_path / "out")
  assert [entry["file"] for entry in result.info.converted] == sorted(
    f"n01440764/{name}" for name in odd
  )
  stored = {name: data for _, _, name, data in records(tmp_path / "out", "train")}
  for files in train.values():
    for name, data in files.items():
      assert tf.io.is_jpeg(stored[name])
      if name not in odd:
        assert stored[name] == data
        continue
      decoded = tf.io.decode_jpeg(stored[name], channels=3).numpy().astype(int)
      expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)
      assert np.abs(decoded - expected).mean() < 4
  assert "converted          2 images" in result.summary()


BAD_MEMBERS = [
  ("../../evil.JPEG", {}, "leads out of the archive"),
  ("/evil.JPEG", {}, "leads out of the archive"),
  ("evil.JPEG", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "a link to"),
]


@pytest.mark.parametrize(("name", "fields", "reason"), BAD_MEMBERS)
def test_a_hostile_member_is_skipped_and_listed(tmp_path, name, fields, reason):
  root = small.write_archives(tmp_path / "in")
  with tarfile.open(root / "ILSVRC2012_img_val.tar", "a") as archive:
    small.add(archive, name, **fields)
  info = prepared(root, tmp_path / "out").info
  assert [entry["file"] for entry in info.skipped] == [name]
  assert reason in info.skipped[0]["reason"]
  assert info.splits["validation"].num_examples == len(small.VALIDATION)
  with pytest.raises(UserError, match=f"evil.JPEG: .*{reason}.*--strict"):
    prepared(root, tmp_path / "strict", strict=True)
  assert not (tmp_path / "strict").exists()


def test_names_that_are_not_ascii_are_kept(tmp_path):
  train = small.train_images()
  train["n01440764"]["été.JPEG"] = helpers_images.jpeg(77)
  root = small.write_archives(tmp_path / "in", train)
  prepared(root, tmp_path / "out")
  assert "été.JPEG" in {name for _, _, name, _ in records(tmp_path / "out", "train")}


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"])
def test_an_archive_cut_off_is_refused_before_anything_is_written(tmp_path, name, kept):
  root = small.write_archives(tmp_path / "in")
  data = (root / name).read_bytes().rstrip(b"\0")
  (root / name).write_bytes(data[: int(len(data) * kept)])
  with pytest.raises(UserError, match=f"{name} is cut off.*Download {name} again"):
    prepared(root, tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_an_inner_archive_cut_off_is_named(tmp_path):
  inner = {f"{s}.tar": small.tar(files) for s, files in small.train_images().items()}
  inner["n01443537.tar"] = inner["n01443537.tar"][:1500]
  root = small.write_archives(tmp_path)
  (root / "ILSVRC2012_img_train.tar").write_bytes(small.tar(inner))
  with pytest.raises(UserError, match=r"n01443537.tar in .*img_train.tar is cut off"):
    helpers_sources.listed("imagenet", root)


@pytest.mark.parametrize("size", ["-1536", "many"])
def test_a_hostile_size_in_an_inner_archive_is_one_line(tmp_path, size):
  inner = {f"{s}.tar": small.tar(files) for s, files in small.train_images().items()}
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w") as archive:
    small.add(archive, "x.JPEG", pax_headers={"size": size})
  inner["n01443537.tar"] = buffer.getvalue()
  root = small.write_archives(tmp_path / "in")
  (root / "ILSVRC2012_img_train.tar").write_bytes(small.tar(inner))
  with pytest.raises(UserError, match=rf"n01443537.tar in .* is corrupt at .*{size}"):
    prepared(root, tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_a_compressed_archive_is_explained(tmp_path):
  root = small.write_archives(tmp_path)
  with tarfile.open(root / "ILSVRC2012_img_val.tar", "w:gz") as archive:
    small.add(archive, "x.JPEG", helpers_images.jpeg())
  with pytest.raises(UserError, match="not a tar file, or a compressed one"):
    helpers_sources.listed("imagenet", root)


def test_a_synset_missing_from_either_split_is_refused(tmp_path):
  train = small.train_images()
  del train["n01443537"]
  root = small.write_archives(tmp_path / "train", train)
  with pytest.raises(UserError, match="training split lacks the synset n01443537"):
    helpers_sources.listed("imagenet", root)
  root = small.write_archives(tmp_path / "list", labels=[small.SYNSETS[0]] * 6)
  with pytest.raises(
    UserError, match="list of validation synsets lacks the synset n01443537, n02119789"
  ):
    helpers_sources.listed("imagenet", root)
  root = small.write_folders(tmp_path / "val", by_synset=True)
  shutil.rmtree(root / "val" / "n02119789")
  with pytest.raises(UserError, match="folder val lacks the synset n02119789"):
    helpers_sources.listed("imagenet", root)


def test_validation_images_that_lack_or_exceed_the_list_are_listed(tmp_path):
  images = small.validation_images()
  images["ILSVRC2012_val_00000099.JPEG"] = images.pop("ILSVRC2012_val_00000003.JPEG")
  root = small.write_archives(tmp_path, validation=images)
  listing = helpers_sources.listed("imagenet", root)
  assert {entry["file"]: entry["reason"] for entry in listing.skipped} == {
    "ILSVRC2012_val_00000003.JPEG": "listed, but not in the input",
    "ILSVRC2012_val_00000099.JPEG": "the list of validation synsets does not know it, "
    "or had it before",
  }


def remove(name):
  return lambda root: (root / name).unlink()


def write_text(name, text):
  return lambda root: (root / name).write_text(text)


def write_cut_kaggle(root):
  (root / LABELS).unlink()
  text = "ImageId,PredictionString\nILSVRC2012_val_00000001\n"
  (root / "LOC_val_solution.csv").write_text(text)


@pytest.mark.parametrize(
  ("spoil", "message"),
  [
    (remove("ILSVRC2012_img_train.tar"), "neither ILSVRC2012_img_train.tar nor train"),
    (remove("ILSVRC2012_img_val.tar"), "neither ILSVRC2012_img_val.tar nor val"),
    (remove(LABELS), f"none of {LABELS}, LOC_val_solution.csv"),
    (write_text(LABELS, "goldfish\n"), "'goldfish', which is no synset"),
    (write_text(LABELS, ""), "is empty"),
    (write_cut_kaggle, "ILSVRC2012_val_00000001 the class '', which is no synset"),
    (shutil.rmtree, "does not exist"),
  ],
)
def test_what_is_missing_is_said(tmp_path, spoil, message):
  root = small.write_archives(tmp_path / "in")
  spoil(root)
  with pytest.raises(UserError, match=message):
    helpers_sources.listed("imagenet", root)


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("LOC_val_solution.csv", "Image,Label\n1,2\n"),
    ("ILSVRC2012_validation_ground_truth.txt", "1\n2\n"),  # without meta.mat
    ("ILSVRC2012_devkit_t12.tar.gz", "no archive"),
  ],
)
def test_a_list_that_cannot_be_understood_is_named(tmp_path, name, text):
  root = small.write_archives(tmp_path)
  (root / LABELS).unlink()
  (root / name).write_text(text)
  with pytest.raises(UserError, match=f"{name} cannot be read: "):
    helpers_sources.listed("imagenet", root)


def test_a_number_that_the_development_kit_does_not_explain_is_told(tmp_path):
  root = small.write_archives(tmp_path)
  (root / LABELS).unlink()
  write_devkit_folder(".")(root)
  (root / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n7\n")
  with pytest.raises(UserError, match=r"class 7.*meta.mat"):
    helpers_sources.listed("imagenet", root)


def test_a_compressed_bomb_among_the_lists_is_one_line(tmp_path):
  root = small.write_archives(tmp_path)
  (root / LABELS).unlink()
  write_devkit_folder(".")(root)
  bomb = zlib.compress(bytes(80 << 20))
  header = (root / "meta.mat").read_bytes()[:128]
  (root / "meta.mat").write_bytes(header + struct.pack("<II", 15, len(bomb)) + bomb)
  with pytest.raises(UserError, match=r"cannot be read: meta.mat has more than 64 MiB"):
    helpers_sources.listed("imagenet", root)
  packed = gzip.compress(bytes(80 << 20), compresslevel=1)
  (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(packed)
  with pytest.raises(
    UserError, match=r"tar.gz cannot be read: it has more than 64 MiB"
  ):
    helpers_sources.listed("imagenet", root)


@pytest.mark.parametrize("cut", [100, 130, 400, 900])
def test_a_truncated_meta_mat_is_one_line(tmp_path, cut):
  root = small.write_archives(tmp_path)
  (root / LABELS).unlink()
  write_devkit_folder(".")(root)
  (root / "meta.mat").write_bytes((root / "meta.mat").read_bytes()[:cut])
  with pytest.raises(UserError, match=r"ground_truth.txt cannot be read: "):
    helpers_sources.listed("imagenet", root)


def test_verification_compares_with_the_counts_of_imagenet(tmp_path):
  root = small.write_archives(tmp_path / "in")
  prepared(root, tmp_path / "out")
  found = [str(p) for p in verify.verify(str(tmp_path / "out"), deep=True).problems]
  assert found == [
    "3 classes besides the background; ImageNet has 1,000",
    "train: 12 images; ImageNet has 1,281,167",
    "validation: 6 images; ImageNet has 50,000",
  ]
