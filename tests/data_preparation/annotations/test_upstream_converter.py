"""The records of `coco` against those of Model Garden's own converter."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.data_preparation import digit_scenes, prepare

# A hash that nobody reads, names with or without the folder, and `jpg` for `JPEG`.
OTHER_KEYS = {"image/key/sha256", "image/filename", "image/format"}


def features(paths):
  """The values of each key, by source id."""
  found = {}
  for record in tf.data.TFRecordDataset(sorted(map(str, paths))):
    example = tf.train.Example.FromString(record.numpy())
    values = {
      key: list(getattr(feature, feature.WhichOneof("kind")).value)
      for key, feature in example.features.feature.items()
    }
    found[values["image/source_id"][0]] = values
  return found


@pytest.mark.slow
def test_records_are_those_of_the_upstream_converter(tmp_path):
  digit_scenes.write_scenes(str(tmp_path / "in"), 12, 1, seed=2)
  options = prepare.PreparationOptions(
    str(tmp_path / "in"), str(tmp_path / "ours"), "coco", keep_category_ids=True
  )
  prepare.prepare(options)
  command = [
    *(sys.executable, "-m", "official.vision.data.create_coco_tf_record"),
    f"--image_dir={tmp_path}/in/images/train",
    f"--object_annotations_file={tmp_path}/in/annotations/instances_train.json",
    f"--output_file_prefix={tmp_path}/upstream",
    "--num_shards=1",
  ]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-2000:]
  ours = features((tmp_path / "ours").glob("train-*"))
  theirs = features(tmp_path.glob("upstream-*"))
  assert ours.keys() == theirs.keys()
  assert len(ours) == 12
  for identity, values in theirs.items():
    for key in values.keys() - OTHER_KEYS:
      if isinstance(values[key][0], float):
        np.testing.assert_allclose(ours[identity][key], values[key], rtol=2e-7)
      else:
        assert ours[identity][key] == values[key], key
