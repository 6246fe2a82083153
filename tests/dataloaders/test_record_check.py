"""What is wrong with data files is said before training, with file and record."""

import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.dataloaders import record_check
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
    record_check.check_records([str(path)], NUM_CLASSES)


def test_what_sound_files_hold_is_told(tmp_path):
  files = [_write(tmp_path / f"train-{i}", [_example(label=i)] * 40) for i in range(5)]
  checked = record_check.check_records(files, NUM_CLASSES)
  assert checked.files == (files[0], files[2], files[4])
  assert checked.num_records == 3 * 32
  assert checked.labels == (0, 2, 4)


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
  assert record_check.check_records([path], NUM_CLASSES).num_records == 1


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
      ["The label 10 in record 1 of", "num_classes is 10", "0 to 9", "to 11"],
    ),
    (_example(label=57), ["The label 57", "Set num_classes to the number"]),
    (_example(label=-1), ["The label -1", "allows 0 to 9"]),
    (
      _example(image__class__label=None, image__class__labels=_int_feature(1)),
      ["no feature 'image/class/label' in record 1", "'image/class/labels'"],
    ),
    (_example(image__encoded=None), ["no feature 'image/encoded'"]),
    (_example(image__class__label=_int_feature(1, 2)), ["holds 2 integers"]),
    (_example(image__class__label=_bytes_feature(b"3")), ["holds 0 integers"]),
    (_example(image=b""), ["'image/encoded' in record 1", "holds no image"]),
    (_example(image=b"not an image"), ["cannot be decoded (12 bytes", "b'not an i'"]),
    (_example(image=_png()[:60]), ["record 1", "cannot be decoded (60 bytes"]),
    (b"\xff\xff", ["Record 1 of", "is not a tf.train.Example"]),
  ],
  ids=range(11),  # bytes of protobufs differ between processes
)
def test_a_faulty_record_is_named(tmp_path, record, texts):
  files = [_write(tmp_path / "train-0", [_example()] * 2)]
  files.append(_write(tmp_path / "train-1", [_example(), record]))
  with pytest.raises(UserError) as caught:
    record_check.check_records(files, NUM_CLASSES)
  for text in [*texts, files[1]]:
    assert text in str(caught.value)


def test_imagenet_labels_without_a_background_class_get_the_hint(tmp_path):
  path = _write(tmp_path / "train-0", [_example(label=1000)])
  with pytest.raises(UserError, match=r"0 to 999.*1 to 1000.*num_classes to 1001"):
    record_check.check_records([path], 1000)
  assert record_check.check_records([path], 1001).labels == (1000,)


def test_files_that_are_no_tfrecords(tmp_path):
  text = tmp_path / "labels.txt"
  text.write_text("tench\ngoldfish\n" * 10)
  zipped = _write(tmp_path / "train.gz", [_example()] * 3, "GZIP")
  for path, reason in ((str(text), "bytes that are no record"), (zipped, "gzip")):
    with pytest.raises(UserError, match=f"is not a TFRecord.*{reason}"):
      record_check.check_records([path], NUM_CLASSES)


def test_a_flipped_bit_is_found(tmp_path):
  path = tmp_path / "train-0"
  _write(path, [_example()] * 3)
  damaged = bytearray(path.read_bytes())
  damaged[len(damaged) // 2] ^= 1
  path.write_bytes(damaged)
  with pytest.raises(UserError, match=r"Record 1 of .*train-0.* is damaged"):
    record_check.check_records([str(path)], NUM_CLASSES)


def test_images_of_one_colour(tmp_path, caplog):
  blank = _write(tmp_path / "train-0", [_example(_png(value=7))] * 3)
  with pytest.raises(
    UserError, match=r"All 3 images .* one colour only, first record 0"
  ):
    record_check.check_records([blank], NUM_CLASSES)
  some = _write(tmp_path / "train-1", [_example(), _example(_png(value=7))])
  assert record_check.check_records([some], NUM_CLASSES).num_records == 2
  assert "1 of 2 images that were read are of one colour only" in caplog.text
