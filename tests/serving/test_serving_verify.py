import copy
import dataclasses
import json
import os
import re
import shutil

import helpers_serving as serving
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.dataloaders.inception_preprocessing import preprocess_for_eval
from mnv2_hpu.errors import UserError
from mnv2_hpu.serving import check_result, exported_models, metadata, verify

# The least that an export.json holds.
EXPORT = {
  "num_classes": 2,
  "label_names": ["ant", "bee"],
  "path": "run/ckpt-1",
  "weights": "raw",
  "versions": {},
  "formats": ["tflite"],
  "image_decoding": {"significant_bits": 16},
  "preprocessing": {
    "name": "inception",
    "height": 32,
    "width": 32,
    "central_fraction": 1.0,
    "crop": False,
  },
  "data": {"image_field_key": "image", "label_field_key": "label"},
}
LABELS = np.array([0, 1, 2, 6])
RANKED = np.array(
  [
    [0.40, 0.30, 0.10, 0.08, 0.06, 0.04, 0.02],  # right
    [0.40, 0.30, 0.10, 0.08, 0.06, 0.04, 0.02],  # second
    [0.08, 0.06, 0.02, 0.40, 0.30, 0.10, 0.04],  # seventh
    [0.10, 0.30, 0.40, 0.08, 0.04, 0.02, 0.06],  # fifth
  ]
)


def test_counts_are_those_of_a_hand_made_table():
  other = RANKED.copy()
  other[0, :2] -= [0.2, 0.0]
  result = verify.evaluate(
    LABELS, {"saved_model": RANKED, "tflite": other}, "val-*", {}
  )
  assert result.num_examples == 4
  assert result.top1 == {"saved_model": 1, "tflite": 0}
  assert result.top5 == {"saved_model": 3, "tflite": 3}
  assert result.max_difference == pytest.approx(0.2)


def test_five_classes_have_no_top_5():
  result = verify.evaluate(LABELS[:3], {"tflite": RANKED[:3, :5]}, "val-*", {})
  assert result.top1 == {"tflite": 1}
  assert result.top5 == {}
  check_result.compare(result, {"top1": 1 / 3, "top5": 1.0})


def verification(top1=None, originals=None):
  top1 = top1 or {"saved_model": 990}
  return check_result.Verification(
    "val-*", 1000, top1, {"saved_model": 999}, 0.0, originals or {}
  )


def test_original_file_read_otherwise_than_prepared_fails():
  check_result.compare(verification(originals={"PNG, palette": 0.0}), {})
  with pytest.raises(UserError, match=r"image files otherwise.*: PNG, RGBA\."):
    check_result.compare(
      verification(originals={"PNG, palette": 0.0, "PNG, RGBA": 0.2}), {}
    )


@pytest.mark.parametrize(
  ("top1", "expected", "fails"),
  [
    ({"saved_model": 990, "tflite": 990}, {"top1": 0.990}, False),
    ({"saved_model": 990, "tflite": 989}, {}, False),
    ({"saved_model": 990, "tflite": 988}, {}, True),
    ({"saved_model": 990, "tflite_int8": 970}, {}, False),
    ({"saved_model": 990, "tflite_int8": 969}, {}, True),
    ({"saved_model": 990}, {"top1": 0.995}, False),
    ({"saved_model": 990}, {"top1": 0.9961}, True),
    ({"saved_model": 350}, {"top1": 0.80}, True),  # 80% in training, 35% exported
  ],
)
def test_gap_of_more_than_a_format_may_have_fails(top1, expected, fails):
  result = verification(top1=top1)
  if fails:
    with pytest.raises(
      UserError, match=r"not what was evaluated: correct \(top1\) of 1000"
    ):
      check_result.compare(result, expected)
  else:
    check_result.compare(result, expected)


def test_a_format_is_compared_with_the_checkpoint_itself():
  result = dataclasses.replace(verification(), checkpoint_top1=991)
  check_result.compare(result, {})
  result = dataclasses.replace(result, checkpoint_top1=980)
  with pytest.raises(UserError, match=r"saved_model 990, the checkpoint 980; .* 0\.1%"):
    check_result.compare(result, {})


def test_one_image_of_a_small_set_may_differ():
  small = check_result.Verification(
    "val-*", 20, {"saved_model": 18}, {}, 0.0, {}, checkpoint_top1=19
  )
  check_result.compare(small, {})
  with pytest.raises(UserError, match="saved_model 18, the checkpoint 20"):
    check_result.compare(dataclasses.replace(small, checkpoint_top1=20), {})


def predict(export_dir, records):
  fields = metadata.read(export_dir)["data"]
  return verify.predict(exported_models.load(export_dir), records, fields)


@pytest.mark.slow
def test_every_record_runs_through_every_format(trained, exported):
  labels, probabilities = predict(exported.export_dir, trained.records)
  assert len(labels) == serving.NUM_RECORDS
  inputs = np.stack(
    [
      preprocess_for_eval(i, serving.SIZE, serving.SIZE, serving.OPTIONS)
      for i in trained.images
    ]
  )
  logits = trained.model(inputs, training=False).numpy()
  expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  for name in ("saved_model", "tflite", "onnx"):
    np.testing.assert_allclose(probabilities[name], expected, atol=1e-4)


def test_folder_without_a_whole_export_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"no export\.json"):
    exported_models.load(str(tmp_path))
  (tmp_path / "export.json").write_text(json.dumps(EXPORT))
  with pytest.raises(UserError, match="holds none of saved_model"):
    exported_models.load(str(tmp_path))


@pytest.mark.slow
def test_fresh_process_finds_the_accuracy_of_this_one(trained, exported, tmp_path):
  folder = str(tmp_path / "export")
  shutil.copytree(exported.export_dir, folder)
  labels, probabilities = predict(folder, trained.records)
  top1 = float(np.mean(probabilities["tflite"].argmax(-1) == labels))
  result = verify.check_export(folder, trained.records, {"top1": top1})
  assert result.num_examples == serving.NUM_RECORDS
  assert result.max_difference < 1e-4
  assert result == check_result.read_result(folder)
  assert {"PNG, RGBA", "PNG, palette with alpha", "GIF", "PNG, 12 of 16 bits"} < set(
    result.originals
  )
  assert max(result.originals.values()) < check_result.ORIGINALS_TOLERANCE
  stored_labels, stored = check_result.read_predictions(folder, serving.NUM_CLASSES)
  np.testing.assert_array_equal(stored_labels, labels)
  np.testing.assert_allclose(stored["saved_model"], probabilities["saved_model"])
  with pytest.raises(UserError, match="the run's evaluation"):
    check_result.compare(result, {"top1": top1 + 0.02})


@pytest.mark.slow
def test_mistake_met_in_the_fresh_process_is_reported(exported, tmp_path):
  with pytest.raises(UserError, match="No data file matches"):
    verify.check_export(exported.export_dir, str(tmp_path / "none-*"))


def die(*args):
  os._exit(9)


def test_process_that_is_killed_is_reported(monkeypatch, tmp_path):
  monkeypatch.setattr(verify, "verify", die)
  with pytest.raises(UserError, match="could not be checked: the process was killed"):
    verify.check_export(str(tmp_path), "unused")


@pytest.mark.parametrize("name", ["export.json", "check.json", "check.npz"])
@pytest.mark.parametrize("content", [None, b"", b'{"num_exa', b"PK\x03\x04torn"])
def test_half_written_export_is_the_users_to_repeat(tmp_path, name, content):
  read = {
    "export.json": metadata.read,
    "check.json": check_result.read_result,
    "check.npz": lambda folder: check_result.read_predictions(folder, 7),
  }[name]
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=re.escape(name)):
    read(str(tmp_path))


@pytest.mark.parametrize(
  ("path", "value"),
  [
    ("num_classes", "two"),
    ("label_names", 5),
    ("label_names", ["ant"]),
    ("label_names", [0, 1]),
    ("formats", 3),
    ("image_decoding.significant_bits", "x"),
    ("preprocessing.height", "x"),
    ("preprocessing", None),
    ("data", []),
  ],
)
def test_value_of_another_type_in_export_json_is_named(tmp_path, path, value):
  content = copy.deepcopy(EXPORT)
  *groups, name = path.split(".")
  owner = content[groups[0]] if groups else content
  owner[name] = value
  (tmp_path / "export.json").write_text(json.dumps(content))
  with pytest.raises(UserError, match=rf"export\.json' cannot be read: {path}"):
    metadata.read(str(tmp_path))
  del owner[name]
  (tmp_path / "export.json").write_text(json.dumps(content))
  with pytest.raises(UserError, match=r"Export again"):
    metadata.read(str(tmp_path))


@pytest.mark.parametrize(
  "arrays",
  [
    {},
    {"tflite": np.zeros([4, 3])},
    {"tflite": np.zeros([3, 7])},
    {"tflite": np.zeros([4, 7]), "labels": LABELS + 1},
  ],
)
def test_predictions_of_another_shape_are_no_check(tmp_path, arrays):
  np.savez(tmp_path / "check.npz", **{"labels": LABELS, **arrays})
  with pytest.raises(UserError, match="Export again"):
    check_result.read_predictions(str(tmp_path), 7)


@pytest.mark.parametrize("top1", ["many", {"tflite": "1"}, None])
def test_counts_that_are_no_numbers_are_no_check(tmp_path, top1):
  content = {**dataclasses.asdict(verification()), "top1": top1}
  (tmp_path / "check.json").write_text(json.dumps(content))
  with pytest.raises(UserError, match=r"check\.json in .*Export again"):
    check_result.read_result(str(tmp_path))


@pytest.mark.slow
def test_image_that_cannot_be_decoded_is_the_datas_fault(exported, tmp_path):
  with tf.io.TFRecordWriter(str(tmp_path / "records")) as writer:
    feature = {
      "image/encoded": tf.train.Feature(
        bytes_list=tf.train.BytesList(value=[b"no image"])
      ),
      "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[0])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    writer.write(example.SerializeToString())
  with pytest.raises(UserError, match=r"cannot be predicted: .*image file format"):
    predict(exported.export_dir, str(tmp_path / "records"))
