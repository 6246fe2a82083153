import json
import os

import helpers_serving as serving
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu import compat
from mnv2_hpu.dataloaders.inception_preprocessing import preprocess_for_eval
from mnv2_hpu.errors import UserError
from mnv2_hpu.serving import export

pytestmark = pytest.mark.slow  # for the export that most of them share

SIZE = serving.SIZE


def in_process_logits(trained, images):
  inputs = tf.stack(
    [preprocess_for_eval(i, SIZE, SIZE, serving.OPTIONS) for i in images]
  )
  return trained.model(inputs, training=False).numpy()


def same_size(trained):
  return np.stack([i for i in trained.images if i.shape == trained.images[0].shape])


@pytest.fixture(scope="module")
def saved_model(exported):
  return tf.saved_model.load(exported.files["saved_model"])


def test_saved_model_computes_what_the_ema_weights_do(trained, saved_model):
  images = same_size(trained)
  outputs = saved_model.signatures["serving_default"](inputs=tf.constant(images))
  logits = in_process_logits(trained, images)
  assert np.ptp(logits, axis=0).max() > 1e-2  # the images differ
  np.testing.assert_allclose(outputs["logits"], logits, atol=1e-4)
  np.testing.assert_allclose(outputs["probs"], tf.nn.softmax(logits), atol=1e-5)


def test_encoded_images_may_differ_in_size(trained, saved_model):
  images = trained.images[:12]
  encoded = tf.constant([serving.png(image) for image in images])
  outputs = saved_model.signatures["image_bytes"](inputs=encoded)
  expected = in_process_logits(trained, images)
  np.testing.assert_allclose(outputs["logits"], expected, atol=1e-4)


def test_neighbours_in_a_batch_do_not_matter(trained, saved_model):
  images = same_size(trained)
  classify = saved_model.signatures["serving_default"]
  together = classify(inputs=tf.constant(images))["logits"]
  alone = classify(inputs=tf.constant(images[:1]))["logits"]
  np.testing.assert_allclose(alone, together[:1], atol=1e-5)


def test_tflite_takes_pixel_values_and_scales_them_itself(trained, exported):
  interpreter = compat.tflite_interpreter(exported.files["tflite"])
  classify = interpreter.get_signature_runner("serving_default")
  (details,) = classify.get_input_details().values()
  assert details["shape"].tolist() == [1, SIZE, SIZE, 3]
  pixels = np.random.default_rng(2).integers(0, 256, (1, SIZE, SIZE, 3))
  outputs = classify(inputs=pixels.astype(np.float32))
  logits = trained.model(tf.constant(pixels / 127.5 - 1, tf.float32), training=False)
  np.testing.assert_allclose(outputs["logits"], logits, atol=1e-4)
  np.testing.assert_allclose(outputs["probs"], tf.nn.softmax(logits), atol=1e-5)


def test_metadata_says_what_was_exported_also_inside_the_saved_model(trained, exported):
  with open(exported.metadata) as file:
    metadata = json.load(file)
  assert (metadata["weights"], metadata["global_step"]) == ("ema", 42)
  assert metadata["path"] == trained.checkpoint
  assert metadata["label_names"][6] == "class 6"
  assert metadata["versions"]["tensorflow"] == tf.__version__
  preprocessing = metadata["preprocessing"]
  assert preprocessing["central_fraction"] == 0.8
  assert preprocessing["resize_method"].startswith("bilinear, no half-pixel centers")
  crop, resize, scale = preprocessing["steps"][1:]
  assert "central 0.8" in crop
  assert resize.startswith(f"resize to {SIZE} x {SIZE}: bilinear")
  assert scale == "pixels / 127.5 - 1"
  path = os.path.join(exported.files["saved_model"], "assets.extra", "export.json")
  with open(path) as file:
    assert json.load(file) == metadata


def test_another_export_replaces_the_one_before(trained, tmp_path):
  folder = tmp_path / "export"
  (folder / "saved_model").mkdir(parents=True)
  (folder / "saved_model" / "old").touch()
  result = export.export(
    trained.params,
    trained.checkpoint,
    str(folder),
    weights="raw",
    formats=["saved_model"],
  )
  assert sorted(os.listdir(folder)) == ["export.json", "saved_model"]
  assert "old" not in os.listdir(folder / "saved_model")
  # The raw weights are others than the EMA ones.
  stored = tf.saved_model.load(result.files["saved_model"]).all_weights
  for variable, raw in zip(stored, trained.raw, strict=True):
    np.testing.assert_array_equal(variable, raw)
  images = same_size(trained)
  loaded = tf.saved_model.load(result.files["saved_model"])
  logits = loaded.signatures["serving_default"](inputs=tf.constant(images))["logits"]
  assert np.abs(logits - in_process_logits(trained, images)).max() > 1e-2


def test_failed_export_leaves_the_one_before(trained, tmp_path):
  (tmp_path / "export.json").write_text("before")
  with pytest.raises(UserError, match="holds no checkpoint"):
    export.export(trained.params, str(tmp_path), str(tmp_path))
  assert os.listdir(tmp_path) == ["export.json"]
  assert (tmp_path / "export.json").read_text() == "before"


def test_no_format_names_the_known_ones(trained, tmp_path):
  with pytest.raises(UserError, match="empty; allowed are saved_model, tflite"):
    export.export(trained.params, trained.checkpoint, str(tmp_path), formats=[])


def test_unknown_format_names_the_known_ones(trained, tmp_path):
  with pytest.raises(UserError, match="Did you mean 'tflite'"):
    export.export(
      trained.params, trained.checkpoint, str(tmp_path), formats=["tf_lite"]
    )
