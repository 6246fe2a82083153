import concurrent.futures
import fcntl
import hashlib
import multiprocessing
import os
import resource
import shutil
from pathlib import Path

import helpers_images
import numpy as np
import pytest
import tensorflow as tf
from official.vision.dataloaders import classification_input
from PIL import ExifTags, Image

from mnv2_hpu.configs import experiments
from mnv2_hpu.configs.recipe import Recipe
from mnv2_hpu.data_preparation import prepare, verify, workers, workspace
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo
from mnv2_hpu.errors import UserError

SPAWN = multiprocessing.get_context("spawn")
COUNTS = {"ant": 12, "bee": 20, "été": 8}


@pytest.fixture
def folder(tmp_path):
  return helpers_images.write_folder(tmp_path / "images", COUNTS)


def options(folder, output, **changes):
  return prepare.PreparationOptions(folder, str(output), **changes)


def digests(output):
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in Path(output).iterdir()
  }


def records(output, split):
  return tf.data.TFRecordDataset(sorted(map(str, Path(output).glob(f"{split}-*-of-*"))))


def test_every_image_becomes_one_record_with_its_label(folder, tmp_path):
  output = tmp_path / "out"
  result = prepare.prepare(options(folder, output, validation_fraction=0.25))
  info = DatasetInfo.load(output)
  assert info == result.info
  assert info.label_names == ["ant", "bee", "été"]
  assert info.splits["train"].examples_per_class == [9, 15, 6]
  assert info.splits["validation"].examples_per_class == [3, 5, 2]
  assert info.splits["train"].file_pattern == "train-*-of-00003"
  assert sorted(path.name for path in output.iterdir()) == [
    "dataset.json",
    *(f"train-0000{i}-of-00003" for i in range(3)),
    "validation-00000-of-00001",
  ]
  decoder = classification_input.Decoder()
  found = {}
  for split in info.splits:
    for record in records(output, split):
      name = tf.io.parse_single_example(
        record, {"image/filename": tf.io.FixedLenFeature([], tf.string)}
      )["image/filename"].numpy()
      found[name.decode()] = decoder.decode(record)
  assert len(found) == sum(COUNTS.values())
  for name, example in found.items():
    assert info.label_names[example["image/class/label"].numpy()] == name.split("/")[0]
    by_tensorflow = tf.io.decode_image(example["image/encoded"], channels=3).numpy()
    by_pillow = np.asarray(Image.open(Path(folder, name)), np.int32)
    # The two decoders round chroma upsampling differently.
    assert np.abs(by_tensorflow - by_pillow).mean() < 2


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(folder, tmp_path):
  for name, seed in (("once", 1), ("again", 1), ("other", 2)):
    prepare.prepare(options(folder, tmp_path / name, seed=seed))
  assert digests(tmp_path / "once") == digests(tmp_path / "again")
  assert digests(tmp_path / "once") != digests(tmp_path / "other")


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(folder, tmp_path):
  prepare.prepare(options(folder, tmp_path / "one", num_processes=1))
  prepare.prepare(options(folder, tmp_path / "two", num_processes=2))
  assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_classes_are_mixed_within_each_shard(tmp_path):
  folder = helpers_images.write_folder(tmp_path / "images", {"a": 40, "b": 40})
  prepare.prepare(options(folder, tmp_path / "out", num_train_shards=2))
  decoder = classification_input.Decoder()
  labels = [
    int(decoder.decode(record)["image/class/label"])
    for record in tf.data.TFRecordDataset(str(tmp_path / "out/train-00000-of-00002"))
  ]
  changes = np.count_nonzero(np.diff(labels))
  assert 8 < changes < 30  # sorted by class it would be 1; 36 records


BAD = {
  "cut.jpg": helpers_images.jpeg(90)[:700],
  "zero.jpg": b"",
  "text.jpg": b"no image",
  "bomb.png": helpers_images.bomb_png(),
}
ODD = {
  "cmyk.jpg": helpers_images.encoded("JPEG", mode="CMYK"),
  "gif.jpg": helpers_images.encoded("GIF"),
  "bmp.jpg": helpers_images.encoded("BMP"),
  "webp.jpg": helpers_images.encoded("WEBP"),
  "16.png": helpers_images.encoded("PNG", np.full((5, 5), 0x1234, np.uint16)),
}
GOOD = {
  "png.jpg": helpers_images.encoded("PNG"),
  "grey.jpg": helpers_images.encoded("JPEG", mode="L"),
}


def test_bad_images_are_skipped_and_odd_ones_converted_and_listed(folder, tmp_path):
  for name, data in {**BAD, **ODD, **GOOD}.items():
    Path(folder, "ant", name).write_bytes(data)
  os.symlink("nowhere", Path(folder, "ant", "link.jpg"))
  result = prepare.prepare(options(folder, tmp_path / "out"))
  skipped = {entry["file"]: entry["reason"] for entry in result.info.skipped}
  assert set(skipped) == {f"ant/{name}" for name in [*BAD, "link.jpg"]}
  assert skipped["ant/link.jpg"] == "cannot be read: No such file or directory"
  converted = {entry["file"] for entry in result.info.converted}
  assert converted == {f"ant/{name}" for name in ODD}
  ants = sum(s.examples_per_class[0] for s in result.info.splits.values())
  assert ants == COUNTS["ant"] + len(ODD) + len(GOOD)
  text = result.summary()
  assert "skipped            5 images" in text
  assert "ant/zero.jpg: the file is empty" in text


def test_ignored_orientation_and_dark_16_bit_images_are_said(folder, tmp_path):
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = 6
  for index in range(3):
    turned = helpers_images.encoded("JPEG", exif=exif)
    Path(folder, "bee", f"turned{index}.jpg").write_bytes(turned)
  ramp = np.arange(4000, dtype=np.uint16).reshape(50, 80)
  Path(folder, "ant", "scan.png").write_bytes(helpers_images.encoded("PNG", ramp))
  text = prepare.prepare(options(folder, tmp_path / "out")).summary()
  assert "warning: 3 images have an EXIF orientation, which is ignored" in text
  assert (
    "warning: 16-bit images of 'ant' use 12 bits of 16: their pixels are at most 15 of "
    "255. --significant_bits=12 suits the whole set" in text
  )
  again = prepare.prepare(options(folder, tmp_path / "out"))
  assert again.summary().count("warning") == 2  # also where nothing is written
  wanted = options(folder, tmp_path / "scaled", significant_bits=12)
  scaled = prepare.prepare(wanted)
  assert scaled.info.significant_bits == 12
  assert "16-bit" not in scaled.summary()
  with pytest.raises(UserError, match="differs in significant_bits"):
    prepare.prepare(options(folder, tmp_path / "scaled"))


def test_significant_bits_out_of_range(folder, tmp_path):
  with pytest.raises(UserError, match="--significant_bits=17: allowed are 8 to 16"):
    prepare.prepare(options(folder, tmp_path / "out", significant_bits=17))


@pytest.mark.parametrize("name", sorted(BAD))
def test_strict_stops_at_a_bad_image(folder, tmp_path, name):
  Path(folder, "bee", name).write_bytes(BAD[name])
  with pytest.raises(UserError, match=rf"bee/{name}: .*--strict"):
    prepare.prepare(options(folder, tmp_path / "out", strict=True))


def test_names_that_are_no_utf_8_are_kept(folder, tmp_path):
  name = os.fsencode(Path(folder, "ant")) + b"/caf\xe9.jpg"
  Path(os.fsdecode(name)).write_bytes(b"")
  result = prepare.prepare(options(folder, tmp_path / "out"))
  assert [entry["file"] for entry in result.info.skipped] == [r"ant/caf\xe9.jpg"]
  assert DatasetInfo.load(tmp_path / "out") == result.info


@pytest.mark.parametrize("root", ["", "train"])
def test_a_class_that_is_not_utf_8_is_an_error(tmp_path, root):
  folder = tmp_path / "in" / root
  helpers_images.write_folder(folder, {"ant": 2, os.fsdecode(b"caf\xe9"): 2})
  with pytest.raises(UserError, match=r"the class 'caf\\xe9' is not UTF-8"):
    prepare.prepare(options(str(tmp_path / "in"), tmp_path / "out"))
  assert not (tmp_path / "out").exists()


def test_folders_that_are_not_utf_8_are_an_error(folder, tmp_path):
  with pytest.raises(UserError, match=r"the folder '.*out\\xe9' is not UTF-8"):
    prepare.prepare(options(folder, tmp_path / os.fsdecode(b"out\xe9")))


def test_one_class_is_an_error(tmp_path):
  folder = helpers_images.write_folder(tmp_path / "in", {"ant": 12})
  with pytest.raises(UserError, match="has one class, 'ant': there is nothing"):
    prepare.prepare(options(folder, tmp_path / "out"))
  assert not (tmp_path / "out").exists()


def test_a_class_without_an_image_to_train_on_is_an_error(folder, tmp_path):
  for path in Path(folder, "bee").iterdir():
    path.write_text("x")
  with pytest.raises(UserError, match=r"class 'bee' has no image to train on"):
    prepare.prepare(options(folder, tmp_path / "out"))
  assert DatasetInfo.find(tmp_path / "out") is None


def test_a_split_without_a_readable_image_is_an_error(tmp_path):
  for name in "ab":
    (tmp_path / "in" / name).mkdir(parents=True)
    (tmp_path / "in" / name / "1.jpg").write_text("x")
  with pytest.raises(UserError, match=r"none of the images .* [ab]/1.jpg: not an"):
    prepare.prepare(options(str(tmp_path / "in"), tmp_path / "out"))


@pytest.mark.parametrize("flag", ["num_train_shards", "num_validation_shards"])
@pytest.mark.parametrize("number", [-1, 1000])
def test_impossible_numbers_of_shards(folder, tmp_path, flag, number):
  with pytest.raises(UserError, match=f"--{flag}={number} does not suit"):
    prepare.prepare(options(folder, tmp_path / "out", **{flag: number}))


def test_negative_number_of_processes(folder, tmp_path):
  with pytest.raises(UserError, match=r"--num_processes=-1: allowed are"):
    prepare.prepare(options(folder, tmp_path / "out", num_processes=-1))


def test_output_within_the_input_is_refused(folder):
  with pytest.raises(UserError, match="lies in --input_dir"):
    prepare.prepare(options(folder, Path(folder, "records")))


def test_output_that_is_a_file_is_refused(folder, tmp_path):
  (tmp_path / "out").write_text("x")
  with pytest.raises(
    UserError, match=r"out cannot be written to: (Not a directory|File exists)"
  ):
    prepare.prepare(options(folder, tmp_path / "out"))


def test_a_finished_set_is_left_alone(folder, tmp_path):
  prepare.prepare(options(folder, tmp_path / "out"))
  before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
  again = prepare.prepare(options(folder, tmp_path / "out"))
  assert again.num_written == 0
  assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == before
  assert "all images were there already" in again.summary()


def test_a_finished_set_that_lost_a_shard_is_not_called_finished(folder, tmp_path):
  prepare.prepare(options(folder, tmp_path / "out"))
  (tmp_path / "out" / "train-00001-of-00003").unlink()
  with pytest.raises(UserError, match="2 of the 3 shards of train"):
    prepare.prepare(options(folder, tmp_path / "out"))


def test_a_set_of_other_settings_is_not_overwritten(folder, tmp_path):
  prepare.prepare(options(folder, tmp_path / "out"))
  before = digests(tmp_path / "out")
  with pytest.raises(UserError, match="differs in seed"):
    prepare.prepare(options(folder, tmp_path / "out", seed=5))
  Path(folder, "ant", "new.jpg").write_bytes(helpers_images.jpeg(99))
  with pytest.raises(UserError, match="differs in source_checksum"):
    prepare.prepare(options(folder, tmp_path / "out"))
  assert digests(tmp_path / "out") == before


def test_shards_of_an_unknown_origin_are_not_overwritten(folder, tmp_path):
  (tmp_path / "out").mkdir()
  old = tmp_path / "out" / "train-00000-of-00002"
  old.write_bytes(b"mine")
  with pytest.raises(UserError, match="train-00000-of-00002 exists already"):
    prepare.prepare(options(folder, tmp_path / "out"))
  assert old.read_bytes() == b"mine"


class InterruptionError(Exception):
  pass


def interrupt_after(images):
  def report(done, total):
    if done >= images:
      raise InterruptionError

  return report


def test_an_interrupted_run_continues_and_ends_with_the_same_bytes(folder, tmp_path):
  wanted = options(folder, tmp_path / "out", num_train_shards=6)
  with pytest.raises(InterruptionError):
    prepare.prepare(wanted, interrupt_after(10))
  kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("train-*")}
  assert 0 < len(kept) < 6
  (tmp_path / "out" / ".prepare" / "train-00005-of-00006.1.tmp").write_text("half")
  result = prepare.prepare(wanted)
  assert result.num_kept >= 10
  assert result.num_written + result.num_kept == sum(COUNTS.values())
  assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
  prepare.prepare(options(folder, tmp_path / "whole", num_train_shards=6))
  assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_an_unfinished_run_of_other_settings_is_not_mixed_in(folder, tmp_path):
  with pytest.raises(InterruptionError):
    prepare.prepare(options(folder, tmp_path / "out"), interrupt_after(10))
  with pytest.raises(UserError, match="unfinished preparation that differs in seed"):
    prepare.prepare(options(folder, tmp_path / "out", seed=1))


def test_two_preparations_into_one_folder_refuse(folder, tmp_path):
  lock = tmp_path / "out" / ".prepare" / "lock"
  lock.parent.mkdir(parents=True)
  with lock.open("w") as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another process is preparing"):
      prepare.prepare(options(folder, tmp_path / "out"))
  assert prepare.prepare(options(folder, tmp_path / "out")).num_written == 40


def test_a_full_disk_keeps_what_is_finished(folder, tmp_path):
  wanted = options(folder, tmp_path / "out", num_train_shards=4)
  with pytest.raises(InterruptionError):
    prepare.prepare(wanted, interrupt_after(9))
  finished = sorted(path.name for path in (tmp_path / "out").glob("*-of-*"))
  # The kernel refuses to let any file grow beyond this: as on a full disk.
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))
  try:
    with pytest.raises(UserError, match=r"could not be written: .*are kept"):
      prepare.prepare(wanted)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert sorted(p.name for p in (tmp_path / "out").glob("*-of-*")) == finished
  assert not list((tmp_path / "out" / ".prepare").glob("*.tmp"))
  assert prepare.prepare(wanted).num_kept >= 9


@pytest.mark.parametrize("limit", [0, 30, 250, 700])
def test_no_space_at_any_moment_is_one_message(folder, tmp_path, limit):
  """Of the index, the plan and the order on, whichever file is the first too large."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
  try:
    with pytest.raises(UserError, match=r"File too large|EFBIG|[Ff]ile") as caught:
      prepare.prepare(options(folder, tmp_path / "out"))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert "space" in str(caught.value)
  assert prepare.prepare(options(folder, tmp_path / "out")).num_written == 40


def _die(task):
  os.kill(os.getpid(), 9)


@pytest.mark.slow
def test_a_killed_worker_is_reported_not_waited_for():
  with pytest.raises(UserError, match="a worker process was killed"):
    list(workers.run(_die, [1, 2, 3], 2))


def test_progress_reaches_the_end(folder, tmp_path):
  told = []
  prepare.prepare(options(folder, tmp_path / "out"), lambda *seen: told.append(seen))
  assert told[0] == (0, 40)
  assert told[-1] == (40, 40)
  assert told == sorted(told)


def test_model_garden_trains_on_the_records(folder, tmp_path):
  prepare.prepare(options(folder, tmp_path / "out"))
  parser = classification_input.Parser([16, 16], num_classes=3, aug_rand_hflip=False)
  decoder = classification_input.Decoder()
  record = next(iter(records(tmp_path / "out", "train")))
  image, label = parser.parse_fn(is_training=True)(decoder.decode(record))
  assert image.shape == (16, 16, 3)
  assert 0 <= int(label) < 3


def test_parts_on_several_hosts_end_as_one_with_the_same_bytes(folder, tmp_path):
  """In one folder at once; or in folders of their own, copied together."""
  prepare.prepare(options(folder, tmp_path / "alone"))
  together, copied = tmp_path / "together", tmp_path / "copied"
  with concurrent.futures.ProcessPoolExecutor(3, SPAWN) as pool:
    parts = [f"{number}/3" for number in (1, 2, 3)]
    shared = [options(folder, together, shard=part) for part in parts]
    results = [*pool.map(prepare.prepare, shared)]
  assert sum(result.num_written for result in results) == sum(COUNTS.values())
  assert "without --shard" in results[0].summary()
  for number, part in enumerate(parts):
    own = tmp_path / f"host{number}"
    prepare.prepare(options(folder, own, shard=part))
    shutil.copytree(own, copied, dirs_exist_ok=True)
  for output in (together, copied):
    with pytest.raises(UserError, match=r"dataset\.json does not exist"):
      DatasetInfo.load(output)
    assert any("has not ended" in text for text in verify.verify(output).problems)
    with pytest.raises(UserError, match=r"has not ended.*without --shard"):
      experiments.with_counts(Recipe(data_dir=str(output)))
    assert prepare.prepare(options(folder, output)).num_written == 0
    assert digests(output) == digests(tmp_path / "alone")


def test_parts_of_other_settings_or_torn_files_are_written_again(folder, tmp_path):
  prepare.prepare(options(folder, tmp_path / "alone"))
  copied = tmp_path / "copied"
  for number, seed in ((2, 1), (1, options(folder, copied).seed)):
    own = tmp_path / f"host{number}"
    prepare.prepare(options(folder, own, shard=f"{number}/2", seed=seed))
    shutil.copytree(own, copied, dirs_exist_ok=True)
  torn = sorted((tmp_path / "host1").glob("train-*"))[0].name
  os.truncate(copied / torn, 100)
  prepare.prepare(options(folder, copied))
  assert digests(copied) == digests(tmp_path / "alone")


def test_what_a_part_left_is_written_at_the_end(folder, tmp_path):
  prepare.prepare(options(folder, tmp_path / "alone"))
  output = tmp_path / "out"
  kept = prepare.prepare(options(folder, output, shard="2/3")).num_written
  assert prepare.prepare(options(folder, output, shard="2/3")).num_kept == kept
  assert prepare.prepare(options(folder, output)).num_kept == kept > 0
  assert digests(output) == digests(tmp_path / "alone")


def test_a_part_keeps_the_end_and_its_like_out(folder, tmp_path):
  output = tmp_path / "out"
  with workspace.lock(output, workspace.Part(1, 3)):
    with pytest.raises(UserError, match="another process is preparing"):
      prepare.prepare(options(folder, output))
    with pytest.raises(UserError, match="another process is preparing"):
      prepare.prepare(options(folder, output, shard="1/3"))
    prepare.prepare(options(folder, output, shard="2/3"))
  with pytest.raises(UserError, match="differs in shards"):
    prepare.prepare(options(folder, output, shard="3/3", num_train_shards=2))


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "a/b", "-1/3", "1/0"])
def test_what_is_no_part_is_refused(folder, tmp_path, shard):
  with pytest.raises(UserError, match=f"--shard={shard} is no part: allowed are 1/N"):
    prepare.prepare(options(folder, tmp_path / "out", shard=shard))
  assert not (tmp_path / "out").exists()
