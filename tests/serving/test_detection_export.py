"""An exported detector finds what its checkpoint finds, on phones too."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from helpers_detection_records import detection_record, write_records
from helpers_serving import png
from official.core import config_definitions as cfg

import mnv2_hpu
from mnv2_hpu import compat
from mnv2_hpu.errors import UserError

pytestmark = pytest.mark.slow  # for the export that they share

SIZE, NUM_CLASSES = (64, 96), 3
SHAPES = [(50, 70, 3), (80, 60, 3), (64, 96, 3)]
NAMES = ["dog", "cat", "bird"]


def _image(random, shape):
  coarse = random.uniform(0, 255, (5, 5, 3)).astype(np.float32)
  return tf.cast(tf.image.resize(coarse, shape[:2], "nearest"), tf.uint8).numpy()


@pytest.fixture(scope="module", name="task")
def fixture_task():
  """The task of a small detector, and its network with drawn weights."""
  mnv2_hpu.register()
  from official.core import task_factory

  from mnv2_hpu.configs import object_detection as exp_cfg

  config = exp_cfg.ObjectDetectionTask()
  config.model.num_classes = NUM_CLASSES
  config.model.input_size = [*SIZE, 3]
  config.model.backbone.mobilenet_v2.width_multiplier = 0.35
  config.model.score_threshold = 0.5
  task = task_factory.get_task(config)
  model, random = task.build_model(), np.random.default_rng(0)
  for variable in model.variables:
    shape = variable.shape.as_list()
    if len(shape) > 1:
      fan_in = 9 if "depthwise" in variable.name else np.prod(shape[:-1])
      variable.assign(random.normal(0, np.sqrt(2 / fan_in), shape))
    else:
      start = 1.0 if "gamma" in variable.name or "variance" in variable.name else 0.0
      variable.assign(start + random.uniform(0, 0.2, shape))
  return task, model


@pytest.fixture(scope="module", name="images")
def fixture_images():
  random = np.random.RandomState(3)
  return [png(_image(random, SHAPES[i % 3])) for i in range(6)]


def _raw(task, model, encoded):
  from mnv2_hpu.dataloaders import image_decoding, ssd_preprocessing

  image = image_decoding.decode_image(tf.constant(encoded))
  network_input = ssd_preprocessing.preprocess_image(image, SIZE)
  return model(network_input[tf.newaxis], training=False), image.shape


@pytest.fixture(scope="module", name="exported")
def fixture_exported(task, images, tmp_path_factory):
  """The export, on records whose boxes are what the checkpoint finds."""
  from mnv2_hpu.serving import export, tflite

  task, model = task
  folder = tmp_path_factory.mktemp("detector")
  records = []
  for number, encoded in enumerate(images):
    raw, shape = _raw(task, model, encoded)
    boxes, scores, classes, _ = (value[0].numpy() for value in task.detect(raw))
    records.append(
      detection_record(
        str(number + 1),
        boxes[:5],
        classes[:5].astype(int) + 1,
        encoded,
        image__height=shape[0],
        image__width=shape[1],
      )
    )
    assert scores[4] > 0.5
  path = write_records(folder / "val", records)
  task.task_config.validation_data.input_path = path
  checkpoint = tf.train.Checkpoint(
    model=model, global_step=tf.Variable(7, dtype=tf.int64)
  ).write(str(folder / "ckpt-7"))
  return export.export(
    cfg.ExperimentConfig(task=task.task_config),
    checkpoint,
    str(folder / "export"),
    weights="raw",
    formats=["saved_model", "tflite", "tflite_int8"],
    label_names=NAMES,
    quantization=tflite.Quantization(images, "uint8"),
  )


@pytest.fixture(scope="module", name="models")
def fixture_models(exported):
  from mnv2_hpu.serving import exported_models

  return exported_models.load(exported.export_dir)


def test_boxes_are_in_pixels_of_the_image_as_given(task, images, models):
  outputs = models["saved_model"](tf.constant(images))
  for row, encoded in enumerate(images):
    raw, (height, width, _) = _raw(*task, encoded)
    boxes, scores, classes, count = (v[0].numpy() for v in task[0].detect(raw))
    sides = [height, width, height, width]
    np.testing.assert_allclose(outputs["detection_boxes"][row], boxes * sides, atol=0.1)
    np.testing.assert_allclose(outputs["detection_scores"][row], scores, atol=1e-4)
    np.testing.assert_array_equal(outputs["detection_classes"][row], classes)
    assert outputs["num_detections"][row] == count
  same = models["saved_model"](tf.constant(images[:1]))
  np.testing.assert_allclose(
    same["detection_boxes"][0], outputs["detection_boxes"][0], atol=0.1
  )


def _best_class_of_each_anchor(task, raw):
  """What TFLite's operation computes: suppressed whatever the class; unclipped."""
  from mnv2_hpu.modeling import multibox

  boxes = multibox.decode_boxes(raw["box_encodings"], task.anchors)[0].numpy()
  scores = tf.sigmoid(raw["class_logits"])[0, :, 1:].numpy()  # without the background
  best = scores.max(axis=1)
  kept = tf.image.non_max_suppression(
    boxes, best, 100, iou_threshold=0.6, score_threshold=0.5
  ).numpy()
  return boxes[kept], best[kept], scores[kept].argmax(axis=1)


@pytest.mark.parametrize("threads", [1, 4])
def test_the_phones_operation_has_the_scales_and_no_background(
  task, images, exported, threads
):
  interpreter = compat.tflite_interpreter(exported.files["tflite"], threads)
  run = interpreter.get_signature_runner("serving_default")
  from mnv2_hpu.serving import preprocessing

  for encoded in images[:3]:
    raw, _ = _raw(*task, encoded)
    boxes, scores, classes = _best_class_of_each_anchor(task[0], raw)
    image = tf.io.decode_png(encoded)
    outputs = run(inputs=preprocessing.create_ssd(*SIZE).resize(image)[None].numpy())
    count = int(outputs["num_detections"][0])
    assert count == len(scores)
    assert count > 5
    np.testing.assert_allclose(outputs["detection_scores"][0, :count], scores, 0, 1e-3)
    np.testing.assert_allclose(outputs["detection_boxes"][0, :count], boxes, atol=5e-3)
    np.testing.assert_array_equal(outputs["detection_classes"][0, :count], classes)
  names = {op["op_name"] for op in interpreter._get_ops_details()}
  assert "TFLite_Detection_PostProcess" in names


def test_int8_takes_bytes_and_finds_the_same_objects(images, exported, models):
  interpreter = compat.tflite_interpreter(exported.files["tflite_int8"])
  assert interpreter.get_input_details()[0]["dtype"] == np.uint8
  kinds = {d["dtype"] for d in interpreter.get_tensor_details() if len(d["shape"]) == 4}
  assert np.float32 not in kinds  # no feature map is of floats
  float_scores, int_scores = (
    models[name](tf.constant(images))["detection_scores"][:, 0]
    for name in ("tflite", "tflite_int8")
  )
  np.testing.assert_allclose(int_scores, float_scores, atol=0.1)


def test_the_check_compares_map_with_the_checkpoint_s(task, exported):
  from mnv2_hpu.serving import check_result, export, metadata
  from mnv2_hpu.serving.checks import detection, metric

  task, _ = task
  path = exported.export_dir
  module, _ = export.build_module(
    cfg.ExperimentConfig(task=task.task_config), exported.restored.path, "raw"
  )
  records = metadata.read(path)["data"]["input_path"]
  models = {
    "checkpoint": export.as_predict(module),
    "checkpoint as TFLite": export.as_predict(module, "as_tflite"),
  }
  kind = detection.DetectionVerification
  num_images, expected = kind.measure(models, records, metadata.read(path))
  assert num_images == 6
  assert expected["checkpoint"]["AP"] > 0.9  # not 1: there are more than the boxes
  assert expected["checkpoint"] != expected["checkpoint as TFLite"]
  result = metric.verify_metrics(path, kind, records, expected)
  assert result.num_images == 6
  assert check_result.read_as(kind, path) == result
  for name, same in (("saved_model", "checkpoint"), ("tflite", "checkpoint as TFLite")):
    for key, value in expected[same].items():
      assert result.metrics[name][key] == pytest.approx(value, abs=1e-3)
  assert "tflite_int8" in result.summary()


def _verification(metrics):
  from mnv2_hpu.serving.checks import detection

  checkpoint = {
    "checkpoint": {"AP": 0.82, "AP50": 0.9},
    "checkpoint as TFLite": {"AP": 0.8, "AP50": 0.9},
  }
  metrics = {name: {"AP": ap, "AP50": 0.9} for name, ap in metrics.items()}
  size = dict.fromkeys(metrics, 1.0)
  return detection.DetectionVerification("val", 9, metrics, checkpoint, size, size)


def test_a_gap_fails():
  good = {"saved_model": 0.818, "tflite": 0.796, "tflite_int8": 0.76}
  _verification(good).compare()
  bad = {"saved_model": 0.81, "tflite": 0.79, "tflite_int8": 0.74}
  for name, value in bad.items():
    message = rf"AP of 9 images is {value:.4f} of {name} and .* may differ by"
    with pytest.raises(UserError, match=message):
      _verification({name: value}).compare()


def test_what_the_suppression_of_phones_costs_is_told():
  metrics = {"tflite": 0.8}
  assert "note" not in _verification(metrics).summary()
  costly = _verification(metrics)
  costly.checkpoint["checkpoint as TFLite"]["AP50"] = 0.6
  assert "suppression of boxes costs 0.300 of AP50" in costly.summary()


@pytest.mark.checkout
@pytest.mark.parametrize("kind", ["saved_model", "tflite"])
def test_the_examples_of_the_documentation(
  checkout, images, exported, models, kind, tmp_path, monkeypatch, capsys
):
  text = (checkout / "docs/export.md").read_text()
  examples = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
  name = {"saved_model": "saved_model.load", "tflite": "Interpreter"}[kind]
  (code,) = (e for e in examples if "detection_boxes" in e and name in e)
  monkeypatch.chdir(tmp_path)
  (tmp_path / "export").symlink_to(exported.export_dir)
  (tmp_path / "photo.jpg").write_bytes(images[1])
  exec(code, {})
  lines = capsys.readouterr().out.splitlines()
  found = models[kind](tf.constant(images[1:2]))
  assert len(lines) == found["num_detections"][0]
  name, score, *_ = lines[0].split()
  assert name == NAMES[int(found["detection_classes"][0, 0])]
  assert float(score) == pytest.approx(found["detection_scores"][0, 0], abs=1e-3)


def test_metadata_says_what_comes_out(exported):
  from mnv2_hpu.serving import metadata

  content = metadata.read(exported.export_dir)
  assert content["task"] == "detection"
  assert content["label_names"] == NAMES
  assert content["preprocessing"]["steps"][1].startswith("resize to 64 x 96")
  assert "pixels of the image" in content["outputs"]["detection_boxes"]


def test_formats_that_a_detector_has_not(exported, task):
  from mnv2_hpu.serving import export

  with pytest.raises(UserError, match="'keras', which is none of detection"):
    export.export(
      cfg.ExperimentConfig(task=task[0].task_config), "x", "y", formats=["keras"]
    )


def test_predictions_name_and_draw_the_boxes(images, exported, tmp_path, capsys):
  from mnv2_hpu.evaluation import prediction_output

  files = []
  for number, encoded in enumerate(images[:2]):
    files.append(tmp_path / f"{number}.png")
    files[-1].write_bytes(encoded)
  (tmp_path / "bad.png").write_bytes(b"404")
  paths = [*map(str, files), str(tmp_path / "bad.png")]
  sheet = tmp_path / "sheet.png"
  assert prediction_output.predict(exported.export_dir, paths, "jsonl", str(sheet)) == 1
  rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [row["file"] for row in rows] == paths
  best = rows[0]["detections"][0]
  assert best["class"] in NAMES
  assert 0.5 < best["score"] <= 1
  assert 0 <= best["box"]["ymin"] < best["box"]["ymax"] <= 50
  assert "detections" not in rows[2]
  assert sheet.stat().st_size > 10_000
  prediction_output.predict(exported.export_dir, paths[:1], "csv", None, 0.0)
  header, first, *_ = capsys.readouterr().out.splitlines()
  assert header == "file,class,score,ymin,xmin,ymax,xmax,error"
  assert first.split(",")[1] == best["class"]
  prediction_output.predict(exported.export_dir, paths[:1], "table", None, 1.1)
  assert "nothing found" in capsys.readouterr().out
