import functools
import http.server
import threading
import zipfile
from pathlib import Path

import helpers_images
import helpers_sources
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from mnv2_hpu.data_preparation import prepare, verify
from mnv2_hpu.errors import UserError

COUNTS = {"train": 40, "test": 10}
CLASSES = ["ant", "bee"]


def image(split, index):
  return helpers_images.pixels(1000 * len(split) + index)


@pytest.fixture(scope="module", autouse=True)
def _offline():
  """Keeps TFDS from looking for its sets in a bucket."""
  with tfds.testing.disable_gcs_access():
    yield


def features(**more):
  return tfds.features.FeaturesDict(
    {
      "image": tfds.features.Image(shape=(24, 36, 3)),
      "label": tfds.features.ClassLabel(names=CLASSES),
      **more,
    }
  )


class SmallInsects(tfds.core.GeneratorBasedBuilder):
  """Images made here; PNG, as TFDS encodes arrays."""

  VERSION = tfds.core.Version("1.0.0")
  SPLITS = tuple(COUNTS)

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self, features=features(), supervised_keys=("image", "label")
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in self.SPLITS}

  def _generate_examples(self, split):
    for index in range(COUNTS[split]):
      yield index, {"image": image(split, index), "label": index % 4 == 0}


class SmallInsectsTrainOnly(SmallInsects):
  """Without a split to evaluate on."""

  SPLITS = ("train",)


class SmallTexts(tfds.core.GeneratorBasedBuilder):
  """No images."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()})
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    yield 0, {"text": "no image"}


class SmallDownload(tfds.core.GeneratorBasedBuilder):
  """Downloads an archive of JPEGs, one folder per class."""

  VERSION = tfds.core.Version("1.0.0")
  URL = ""

  def _info(self):
    # No supervised_keys: the only image and the only label are found.
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          "photo": tfds.features.Image(encoding_format="jpeg"),
          "name": tfds.features.Text(),
          "kind": tfds.features.ClassLabel(names=CLASSES),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    folder = Path(dl_manager.download_and_extract(self.URL))
    return {s: self._generate_examples(folder / s) for s in ("train", "validation")}

  def _generate_examples(self, folder):
    for path in sorted(folder.rglob("*.jpg")):
      example = {"photo": path, "name": path.name, "kind": path.parent.name}
      yield f"{path.parent.name}/{path.name}", example


def prepared(name, tmp_path, **changes):
  options = prepare.PreparationOptions(
    str(tmp_path / "tfds"), str(tmp_path / "out"), "tfds", tfds_name=name, **changes
  )
  return prepare.prepare(options)


def decoded(output, split):
  """(label, pixels as bytes) of each record."""
  spec = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
  }
  paths = sorted(map(str, Path(output).glob(f"{split}-*-of-*")))
  for record in tf.data.TFRecordDataset(paths):
    parsed = tf.io.parse_single_example(record, spec)
    pixels = tf.io.decode_image(parsed["image/encoded"], channels=3)
    yield int(parsed["image/class/label"]), pixels.numpy().tobytes()


def test_a_set_of_tfds_is_prepared_as_tfds_reads_it(tmp_path):
  result = prepared("small_insects", tmp_path)
  assert result.info.label_names == CLASSES
  assert result.info.validation_fraction is None
  for split, tfds_split in (("train", "train"), ("validation", "test")):
    by_tfds = tfds.load(
      "small_insects", data_dir=str(tmp_path / "tfds"), split=tfds_split
    )
    expected = {(int(e["label"]), e["image"].numpy().tobytes()) for e in by_tfds}
    assert len(expected) == COUNTS[tfds_split]
    assert set(decoded(tmp_path / "out", split)) == expected
  assert verify.verify(str(tmp_path / "out"), deep=True).ok


def test_a_stratified_share_is_held_out_where_there_is_one_split(tmp_path):
  result = prepared("small_insects_train_only", tmp_path, validation_fraction=0.2)
  assert result.info.splits["validation"].examples_per_class == [6, 2]
  assert result.info.splits["train"].examples_per_class == [24, 8]
  expected = {
    (int(i % 4 == 0), image("train", i).tobytes()) for i in range(COUNTS["train"])
  }
  found = [set(decoded(tmp_path / "out", s)) for s in ("train", "validation")]
  assert found[0] | found[1] == expected
  assert not found[0] & found[1]
  assert result.info.validation_fraction == 0.2


def test_another_split_to_train_on_is_taken(tmp_path):
  result = prepared("small_insects", tmp_path, tfds_train_split="test")
  assert result.info.splits["train"].num_examples < COUNTS["test"]
  with pytest.raises(UserError, match=r"--tfds_train_split may be one of .*train"):
    prepared("small_insects", tmp_path, tfds_train_split="training")


@pytest.fixture
def server(tmp_path):
  """Serves a folder on the loopback interface; yields (address, folder)."""
  folder = tmp_path / "served"
  folder.mkdir()
  handler = functools.partial(
    http.server.SimpleHTTPRequestHandler, directory=str(folder)
  )
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", folder
    running.shutdown()


def test_a_download_is_fetched_prepared_and_not_fetched_again(
  tmp_path, server, monkeypatch
):
  address, folder = server
  with zipfile.ZipFile(folder / "insects.zip", "w") as archive:
    for split, count in (("train", 6), ("validation", 2)):
      for index in range(count):
        name = f"{split}/{CLASSES[index % 2]}/{index}.jpg"
        archive.writestr(name, helpers_images.jpeg(10 * count + index))
  monkeypatch.setattr(SmallDownload, "URL", f"{address}/insects.zip")
  first = prepared("small_download", tmp_path, num_train_shards=2)
  assert first.info.splits["train"].examples_per_class == [3, 3]
  assert first.info.splits["validation"].examples_per_class == [1, 1]
  assert not first.info.converted  # JPEGs pass through TFDS and this as they are
  (folder / "insects.zip").unlink()
  assert prepared("small_download", tmp_path, num_train_shards=2).num_written == 0


def test_a_failed_download_is_explained_and_leaves_nothing(
  tmp_path, server, monkeypatch
):
  monkeypatch.setattr(SmallDownload, "URL", f"{server[0]}/nowhere.zip")
  with pytest.raises(UserError, match="TFDS cannot download or prepare small_download"):
    prepared("small_download", tmp_path)
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("", "needs --tfds_name"),
    ("small_insect", r"is not known to TFDS. Did you mean 'small_insects'"),
    ("small_insects:9.9.9", "small_insects:9.9.9"),
    ("small_texts", "has no single image among its features text"),
  ],
)
def test_an_impossible_set_is_explained(tmp_path, name, message):
  with pytest.raises(UserError, match=message):
    helpers_sources.listed("tfds", tmp_path, tfds_name=name)


def test_a_name_for_another_source_is_refused(tmp_path):
  with pytest.raises(UserError, match="belongs to --source=tfds"):
    helpers_sources.listed("imagenet", tmp_path, tfds_name="cifar10")


def test_a_corrupt_file_of_tfds_is_named(tmp_path):
  builder = tfds.builder("small_insects", data_dir=str(tmp_path))
  builder.download_and_prepare()
  path = Path(builder.info.splits["train"].filepaths[0])
  data = bytearray(path.read_bytes())
  data[200] ^= 1
  path.write_bytes(data)
  with pytest.raises(UserError, match=f"{path.name}: record 0 at byte 0 is corrupt"):
    helpers_sources.listed("tfds", tmp_path, tfds_name="small_insects")


def test_images_of_tfds_keep_their_grey_and_16_bits(tmp_path):
  class SmallGrey(SmallInsects):
    """16 bits."""

    SPLITS = ("train",)

    def _info(self):
      shape = tfds.features.Image(shape=(5, 5, 1), dtype=np.uint16)
      return tfds.core.DatasetInfo(
        builder=self,
        features=features(image=shape),
        supervised_keys=("image", "label"),
      )

    def _generate_examples(self, split):
      for index in range(10):
        value = np.full((5, 5, 1), 0x1234, np.uint16)
        yield index, {"image": value, "label": index % 2}

  result = prepared(SmallGrey.name, tmp_path, validation_fraction=0)
  assert len(result.info.converted) == 10
  assert {p for _, p in decoded(tmp_path / "out", "train")} == {bytes([0x12] * 75)}
