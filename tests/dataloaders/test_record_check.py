"""What is wrong with data files is said before training, with file and record."""

import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.dataloaders import classification_input, record_check
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo, SplitInfo
from mnv2_hpu.errors import UserError

NUM_CLASSES = 10


def _png(value=None):
  random = np.random.RandomState(0)
  image = (
    random.randint(0, 256, (6, 5, 3)) if value is None else np.full((6, 5, 3), value)
  )
  return tf.io.encode_png(image.astype(np.uint8)).numpy()


def _bytes_feature(*values):
  return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def _int_feature(*values):
  return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def _example(image=None, label=3, **changes):
  feature = {
    "image/encoded": _bytes_feature(_png() if image is None else image),
    "image/class/label": _int_feature(label),
  }
  feature |= {name.replace("__", "/"): value for name, value in changes.items()}
  feature = {name: value for name, value in feature.items() if value is not None}
  example = tf.train.Example(features=tf.train.Features(feature=feature))
  return example.SerializeToString()


def _check(files, num_classes, keys=(), **options):
  record_format = classification_input.record_format(num_classes, *keys)
  return record_check.check_records(files, record_format, **options)


def _write(path, records, compression=""):
  options = tf.io.TFRecordOptions(compression_type=compression)
  with tf.io.TFRecordWriter(str(path), options) as writer:
    for record in records:
      writer.write(record)
  return str(path)


def test_a_truncated_tail_is_found(tmp_path):
  path = tmp_path / "train-0"
  _write(path, [_example()] * 50)  # more than are read
  whole = path.read_bytes()
  path.write_bytes(whole[:-40])
  with pytest.raises(
    UserError, match=rf"train-0.*truncated.*byte {len(whole) // 50 * 49} "
  ):
    _check([str(path)], NUM_CLASSES)


def test_what_is_read_is_returned(tmp_path):
  files = [_write(tmp_path / f"train-{i}", [_example(label=i)] * 40) for i in range(5)]
  checked = _check(files, NUM_CLASSES)
  assert checked == record_check.CheckedRecords(200, 200, (0, 1, 2, 3, 4), ())


def test_of_a_large_set_three_files_are_read_in_part(tmp_path, monkeypatch):
  monkeypatch.setattr(record_check, "MAX_READ_BYTES", 1000)
  monkeypatch.setattr(record_check, "MAX_COUNTED_RECORDS", 100)
  files = [_write(tmp_path / f"train-{i}", [_example(label=i)] * 40) for i in range(5)]
  checked = _check(files, NUM_CLASSES)
  assert checked == record_check.CheckedRecords(None, 3 * 32, (0, 2, 4), ())


@pytest.mark.parametrize("image_format", ["jpeg", "png", "gif", "bmp"])
def test_every_format_that_training_decodes_is_accepted(tmp_path, image_format):
  pixels = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)[..., :3].copy()
  encoded = {
    "jpeg": lambda: tf.io.encode_jpeg(pixels).numpy(),
    "png": lambda: tf.io.encode_png(pixels[..., :1]).numpy(),  # greyscale
    "gif": lambda: GIF,
    "bmp": lambda: BMP,
  }[image_format]()
  path = _write(tmp_path / "train-0", [_example(encoded)])
  assert _check([path], NUM_CLASSES).num_read == 1


# Two black and white pixels each, written out by hand.
GIF = (
  b"GIF89a\x02\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff"
  b",\x00\x00\x00\x00\x02\x00\x01\x00\x00\x02\x02\x44\x0a\x00;"
)
BMP = (
  b"BM\x3e\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00\x02\x00\x00\x00"
  b"\x01\x00\x00\x00\x01\x00\x18\x00\x00\x00\x00\x00\x08\x00\x00\x00" + b"\x00" * 16
) + b"\x00\x00\x00\xff\xff\xff\x00\x00"


@pytest.mark.parametrize(
  ("record", "texts"),
  [
    (
      _example(label=10),
      ["record 1 of", "the label 10,", "num_classes is 10", "0 to 9", "to 11"],
    ),
    (_example(label=57), ["the label 57", "Set num_classes to the number"]),
    (_example(label=-1), ["the label -1", "allows 0 to 9"]),
    (
      _example(image__class__label=None, image__class__labels=_int_feature(1)),
      ["record 1 of", "no feature 'image/class/label'", "'image/class/labels'"],
    ),
    (_example(image__encoded=None), ["no feature 'image/encoded'"]),
    (
      _example(image__class__label=_int_feature(1, 2)),
      ["holds 2 values in the feature"],
    ),
    (
      _example(image__class__label=_bytes_feature(b"3")),
      ["a label is one integer"],
    ),
    (
      _example(image=b""),
      ["record 1 of", "holds no image", "image/encoded"],
    ),
    (_example(image=b"not an image"), ["cannot be decoded (12 bytes", "b'not an i'"]),
    (_example(image=_png()[:60]), ["record 1", "cannot be decoded (60 bytes"]),
    (b"\xff\xff", ["record 1 of", "is not a tf.train.Example"]),
  ],
  ids=range(11),  # bytes of protobufs differ between processes
)
def test_a_faulty_record_is_named(tmp_path, record, texts):
  files = [_write(tmp_path / "train-0", [_example()] * 2)]
  files.append(_write(tmp_path / "train-1", [_example(), record]))
  with pytest.raises(UserError) as caught:
    _check(files, NUM_CLASSES)
  for text in [*texts, files[1]]:
    assert text in str(caught.value)


def test_imagenet_labels_without_a_background_class_get_the_hint(tmp_path):
  path = _write(tmp_path / "train-0", [_example(label=1000)])
  with pytest.raises(UserError, match=r"0 to 999.*1 to 1000.*num_classes to 1001"):
    _check([path], 1000)
  assert _check([path], 1001).labels == (1000,)


def test_files_that_are_no_tfrecords(tmp_path):
  text = tmp_path / "labels.txt"
  text.write_text("tench\ngoldfish\n" * 10)
  zipped = _write(tmp_path / "train.gz", [_example()] * 3, "GZIP")
  for path, reason in ((str(text), "bytes that are no record"), (zipped, "gzip")):
    with pytest.raises(UserError, match=f"is not a TFRecord.*{reason}"):
      _check([path], NUM_CLASSES)


def test_a_flipped_bit_is_found(tmp_path):
  path = tmp_path / "train-0"
  _write(path, [_example()] * 3)
  _flip(path, path.stat().st_size // 2)
  with pytest.raises(UserError, match=r"record 1 of .*train-0.* is corrupt"):
    _check([str(path)], NUM_CLASSES)


def _flip(path, place):
  content = bytearray(path.read_bytes())
  content[place : place + 3] = bytes(b ^ 255 for b in content[place : place + 3])
  path.write_bytes(content)


# Bytes from the start of a record: of its length, its data, its last checksum.
@pytest.mark.parametrize("place", [0, 8, 30, -3])
def test_corrupt_records_within_the_limit_are_named(tmp_path, caplog, place):
  path = tmp_path / "train-0"
  _write(path, [_example()] * 12)
  size = path.stat().st_size // 12
  _flip(path, 5 * size + place % size)
  checked = _check([str(path)], NUM_CLASSES, num_examples=12, max_corrupt_records=1)
  (problem,) = checked.corrupt
  assert f"record 5 of {str(path)!r} (at byte {5 * size}) is corrupt" in problem
  assert problem in caplog.text
  with pytest.raises(UserError, match="max_corrupt_records allows 0"):
    _check([str(path)], NUM_CLASSES)


def test_corrupt_records_beyond_the_limit_stop(tmp_path):
  path = _write(tmp_path / "train-0", [_example(), b"\xff", b"\xff", b"\xff"])
  with pytest.raises(UserError, match=r"record 3 of .* allows 2 "):
    _check([path], NUM_CLASSES, max_corrupt_records=2)
  _write(tmp_path / "train-0", [_example()] * 4)
  with pytest.raises(UserError, match=r"All 4 records .* no feature 'label'"):
    _check([path], NUM_CLASSES, max_corrupt_records=9, keys=["image/encoded", "label"])


@pytest.mark.parametrize("stated", [5, 7, 50_000])
def test_another_number_of_records_than_the_configuration_says(tmp_path, stated):
  files = [_write(tmp_path / f"train-{i}", [_example()] * 3) for i in range(2)]
  message = rf"holds 6 records, but the configuration .*says {stated:,}.*to 6,"
  with pytest.raises(UserError, match=message):
    _check(files, NUM_CLASSES, num_examples=stated)
  assert _check(files, NUM_CLASSES, num_examples=6).num_read == 6


def _dataset_json(folder, per_class):
  split = SplitInfo(sum(per_class), 1, "train-*-of-00001", per_class)
  names = [str(i) for i in range(len(per_class))]
  info = DatasetInfo("x", names, len(names), {"train": split}, [], [], 0, None, "", "")
  info.save(folder)


def test_another_number_of_records_than_dataset_json_says(tmp_path):
  path = _write(tmp_path / "train-00000-of-00001", [_example()] * 6)
  _dataset_json(tmp_path, [0, 0, 0, 5])
  with pytest.raises(UserError, match=r"holds 6 records, but dataset.json says 5"):
    _check([path], NUM_CLASSES)


def test_a_label_anywhere_in_the_files(tmp_path):
  """Read where the set is small, else known from dataset.json."""
  path = _write(
    tmp_path / "train-00000-of-00001", [_example()] * 100 + [_example(label=11)]
  )
  with pytest.raises(UserError, match=r"record 100 of .* the label 11"):
    _check([path], NUM_CLASSES)
  _dataset_json(tmp_path, [0, 0, 0, 100, *[0] * 7, 1])
  with pytest.raises(UserError, match=r"dataset.json .* the label 11.*classes to 12"):
    _check([path], NUM_CLASSES)


def test_images_of_one_color(tmp_path, caplog):
  blank = _write(tmp_path / "train-0", [_example(_png(value=7))] * 3)
  with pytest.raises(
    UserError, match=r"All 3 images .* one color only, the first in record 0"
  ):
    _check([blank], NUM_CLASSES)
  some = _write(tmp_path / "train-1", [_example(), _example(_png(value=7))])
  assert _check([some], NUM_CLASSES).num_read == 2
  assert "1 of 2 images that were decoded are of one color only" in caplog.text
