import json
import os
import zipfile

import helpers_serving as serving
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu import compat
from mnv2_hpu.dataloaders.inception_preprocessing import preprocess_for_eval
from mnv2_hpu.errors import UserError
from mnv2_hpu.serving import export, exported_models, tflite

pytestmark = pytest.mark.slow  # for the export that most of them share

SIZE = serving.SIZE
FILES = [(name, exported_models.FILES[name]) for name in tflite.KINDS]


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


def test_preprocessed_floats_go_into_the_network_as_they_are(trained, saved_model):
  images = same_size(trained)
  inputs = tf.stack(
    [preprocess_for_eval(i, SIZE, SIZE, serving.OPTIONS) for i in images]
  )
  outputs = saved_model.signatures["preprocessed"](inputs=inputs)
  np.testing.assert_allclose(
    outputs["logits"], in_process_logits(trained, images), atol=1e-4
  )


def test_exported_models_hold_no_batch_norm(exported, saved_model):
  graph = saved_model.signatures["serving_default"].graph.as_graph_def()
  operations = {node.op for node in graph.node}
  operations |= {n.op for f in graph.library.function for n in f.node_def}
  assert "Conv2D" in operations
  assert not any(
    "Norm" in operation or operation == "Rsqrt" for operation in operations
  )
  interpreter = compat.tflite_interpreter(exported.files["tflite"])
  assert "MUL" in {
    op["op_name"] for op in interpreter._get_ops_details()
  }  # the scaling


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


def test_tflite_holds_the_names_of_its_classes(exported):
  with zipfile.ZipFile(exported.files["tflite"]) as archive:
    (name,) = archive.namelist()
    lines = archive.read(name).decode().splitlines()
  assert name == "labels.txt"
  assert lines == [f"class {i}" for i in range(serving.NUM_CLASSES)]


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
  (folder / ".saved_model.tmp").mkdir()
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
  images = same_size(trained)
  loaded = tf.saved_model.load(result.files["saved_model"])
  logits = loaded.signatures["serving_default"](inputs=tf.constant(images))["logits"]
  ema_weights, ema_logits = (
    trained.model.get_weights(),
    in_process_logits(trained, images),
  )
  trained.model.set_weights(trained.raw)
  raw_logits = in_process_logits(trained, images)
  trained.model.set_weights(ema_weights)
  assert np.abs(ema_logits - raw_logits).max() > 1e-2
  np.testing.assert_allclose(logits, raw_logits, atol=1e-4)


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


def test_a_folder_with_something_else_is_left_alone(trained, tmp_path):
  (tmp_path / "thesis.txt").write_text("mine")
  with pytest.raises(UserError, match=r"holds thesis\.txt, but no export\.json"):
    export.export(trained.params, trained.checkpoint, str(tmp_path))
  assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# ---- TFLite with fewer bits ----


@pytest.fixture(scope="module", params=["float32", "uint8", "int8"])
def small_models(request, trained, tmp_path_factory):
  """Type of inputs and outputs, and the folder of every TFLite format."""
  folder = str(tmp_path_factory.mktemp("tflite"))
  images = [serving.png(image) for image in trained.images[:20]]
  export.export(
    trained.params,
    trained.checkpoint,
    folder,
    formats=list(tflite.KINDS),
    quantization=tflite.Quantization(images, request.param),
  )
  return request.param, folder


def test_every_tflite_format_is_close_to_the_network(trained, small_models):
  inference_type, folder = small_models
  images = trained.images[:40]
  expected = in_process_logits(trained, images)
  encoded = tf.constant([serving.png(image) for image in images])
  allowed = {"tflite": 1e-4, "tflite_float16": 0.01, "tflite_dynamic": 0.1}
  scale = np.ptp(expected)
  for name, run in exported_models.load(folder).items():
    if name != "tflite_int8" and inference_type != "float32":
      continue  # the same files as of the first type
    difference = np.abs(run(encoded)["logits"] - expected).max() / scale
    assert difference < allowed.get(name, 0.25), name


def test_int8_has_no_float_operation_but_at_its_ends(small_models):
  inference_type, folder = small_models
  path = os.path.join(folder, "model_int8.tflite")
  interpreter = compat.tflite_interpreter(path)
  interpreter.allocate_tensors()
  details = {t["index"]: t["dtype"] for t in interpreter.get_tensor_details()}
  in_floats = {
    operation["op_name"]
    for operation in interpreter._get_ops_details()
    if any(details.get(i) == np.float32 for i in operation["outputs"])
  }
  # LiteRT lists the delegate that computes the operations beside them.
  at_the_ends = {"DEQUANTIZE"} if inference_type == "float32" else set()
  assert in_floats - {"DELEGATE"} <= at_the_ends
  given = np.dtype(interpreter.get_input_details()[0]["dtype"])
  assert given == np.dtype(inference_type)
  sizes = {name: os.path.getsize(os.path.join(folder, file)) for name, file in FILES}
  assert sizes["tflite_int8"] < sizes["tflite"]
  assert sizes["tflite_float16"] < sizes["tflite"]


def test_int8_without_images_to_calibrate_with_is_refused(trained, tmp_path):
  with pytest.raises(UserError, match="calibrated with images of the training set"):
    export.export(
      trained.params, trained.checkpoint, str(tmp_path), formats=["tflite_int8"]
    )
  assert not list(tmp_path.iterdir())
