"""An exported segmenter labels the pixels as its checkpoint does, on phones too."""

import re

import helpers_segmentation_records
import numpy as np
import pytest
import tensorflow as tf
from official.core import config_definitions as cfg
from PIL import Image

import mnv2_hpu
from mnv2_hpu import compat
from mnv2_hpu.errors import UserError

pytestmark = pytest.mark.slow  # for the export that they share

SIZE, NUM_CLASSES = 65, 3
# Of the network's size, smaller, odd; the next ones do not fit.
SHAPES = [(65, 65), (33, 41), (1, 65), (40, 64)]
LARGE = [(90, 120), (200, 30)]
NAMES = ["ground", "dog", "cat"]
FORMATS = ["saved_model", "tflite", "tflite_int8"]


def draw_weights(model, seed=0):
  """Gives a network weights with which its features live."""
  random = np.random.default_rng(seed)
  for variable in model.variables:
    shape = variable.shape.as_list()
    if len(shape) > 1:
      fan_in = 9 if "depthwise" in variable.name else np.prod(shape[:-1])
      variable.assign(random.normal(0, np.sqrt(2 / fan_in), shape))
    else:
      start = 1.0 if "gamma" in variable.name or "variance" in variable.name else 0.0
      variable.assign(start + random.uniform(0, 0.2, shape))


@pytest.fixture(scope="module", name="task")
def fixture_task(small_network):
  """The task of a small segmenter, and its network with drawn weights."""
  mnv2_hpu.register()
  from official.core import task_factory

  from mnv2_hpu.configs import semantic_segmentation as exp_cfg

  config = exp_cfg.SemanticSegmentationTask()
  config.model.num_classes = NUM_CLASSES
  config.model.input_size = [SIZE - 16, SIZE - 16, 3]  # size of crops
  config.validation_data.output_size = [SIZE, SIZE]
  config.model.aspp = config.model.decoder = "separable"
  config.model.atrous_rates = [1, 2]
  task = task_factory.get_task(config)
  model = task.build_model()
  draw_weights(model)
  return task, model


def _image(seed, shape):
  random = np.random.RandomState(seed)
  coarse = random.uniform(0, 255, (5, 5, 3)).astype(np.float32)
  return tf.cast(tf.image.resize(coarse, shape), tf.uint8).numpy()


def _predict(task, model, image):
  """The labels that evaluation predicts: the image padded, then cut again."""
  height, width = image.shape[:2]
  padded = np.full([1, SIZE, SIZE, 3], 127.5, np.float32)
  padded[0, :height, :width] = image
  labels = task.predict(tf.constant(padded * (2 / 255) - 1), model)
  return labels[0, :height, :width].numpy()


@pytest.fixture(scope="module", name="images")
def fixture_images():
  return [_image(i, SHAPES[i % len(SHAPES)]) for i in range(6)]


@pytest.fixture(scope="module", name="encoded")
def fixture_encoded(images):
  return tf.constant([tf.io.encode_png(image).numpy() for image in images])


@pytest.fixture(scope="module", name="exported")
def fixture_exported(task, images, encoded, tmp_path_factory):
  """The export, on records whose labels are mostly what the checkpoint predicts."""
  from mnv2_hpu.serving import export, tflite

  task, model = task
  folder = tmp_path_factory.mktemp("segmenter")
  records = []
  for image in images:
    mask = _predict(task, model, image).astype(np.uint8)[..., np.newaxis]
    mask[:, ::7] = (mask[:, ::7] + 1) % NUM_CLASSES  # that it is wrong about
    mask[:, 1::9] = 255
    records.append(helpers_segmentation_records.record(image, mask))
  path = helpers_segmentation_records.write(folder / "val", records)
  task.task_config.validation_data.input_path = path
  checkpoint = tf.train.Checkpoint(
    model=model, global_step=tf.Variable(7, dtype=tf.int64)
  ).write(str(folder / "ckpt-7"))
  return export.export(
    cfg.ExperimentConfig(task=task.task_config),
    checkpoint,
    str(folder / "export"),
    weights="raw",
    formats=FORMATS,
    label_names=NAMES,
    quantization=tflite.Quantization(encoded.numpy().tolist(), "uint8"),
  )


@pytest.fixture(scope="module", name="models")
def fixture_models(exported):
  from mnv2_hpu.serving import exported_models

  return exported_models.load(exported.export_dir)


def test_masks_are_those_of_evaluation_at_the_images_own_size(
  task, images, encoded, models
):
  expected = [_predict(*task, image) for image in images]
  assert len(np.unique(np.concatenate([e.ravel() for e in expected]))) > 1
  for name, agreement in (
    ("saved_model", 1.0),
    ("tflite", 0.995),
    ("tflite_int8", 0.8),
  ):
    outputs = models[name](encoded)
    masks = outputs["masks"]
    assert masks.dtype == np.uint8
    assert masks.shape == (6, 65, 65)
    np.testing.assert_array_equal(
      outputs["image_sizes"], [image.shape[:2] for image in images]
    )
    equal = []
    for mask, want in zip(masks, expected, strict=True):
      height, width = want.shape
      equal.append((mask[:height, :width] == want).ravel())
      assert (mask[height:] == 255).all()
      assert (mask[:, width:] == 255).all()
    assert np.concatenate(equal).mean() >= agreement, name


def test_a_batch_has_the_masks_of_its_images_alone(encoded, models):
  together = models["saved_model"](encoded)["masks"]
  for row, (height, width) in ((1, SHAPES[1]), (2, SHAPES[2])):
    alone = models["saved_model"](encoded[row : row + 1])["masks"]
    assert alone.shape == (1, height, width)
    np.testing.assert_array_equal(alone[0], together[row, :height, :width])


@pytest.mark.parametrize("shape", LARGE)
def test_a_larger_image_is_scaled_down_and_its_mask_up(task, models, shape):
  """Pillow computes the same: `Image.resize` with antialiasing."""
  image = _image(9, shape)
  scale = SIZE / max(shape)
  height, width = (round(side * scale) for side in shape)
  small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
  small = _predict(*task, np.asarray(small, np.float32)).astype(np.uint8)
  want = np.asarray(
    Image.fromarray(small).resize(shape[::-1], Image.Resampling.NEAREST)
  )
  found = models["saved_model"](tf.constant([tf.io.encode_png(image).numpy()]))["masks"]
  assert found.shape == (1, *shape)
  assert (found[0] == want).mean() > 0.98  # Pillow rounds pixels


def test_pixels_and_preprocessed_input_are_taken_too(task, images, exported):
  loaded = tf.saved_model.load(exported.files["saved_model"])
  of_pixels = loaded.signatures["serving_default"]
  image = images[1]
  expected = _predict(*task, image)
  found = of_pixels(inputs=tf.constant(np.stack([image, image])))
  assert found["masks"].shape == (2, *image.shape[:2])
  np.testing.assert_array_equal(found["masks"][1], expected)
  padded = np.full([1, SIZE, SIZE, 3], 127.5, np.float32)
  padded[0, : image.shape[0], : image.shape[1]] = image
  found = loaded.signatures["preprocessed"](inputs=tf.constant(padded / 127.5 - 1))
  assert found["masks"].shape == (1, SIZE, SIZE)


def test_int8_takes_bytes_and_returns_labels(exported):
  interpreter = compat.tflite_interpreter(exported.files["tflite_int8"])
  assert interpreter.get_input_details()[0]["dtype"] == np.uint8
  (output,) = interpreter.get_output_details()
  assert output["dtype"] == np.uint8
  assert output["shape"].tolist() == [1, SIZE, SIZE]
  kinds = {d["dtype"] for d in interpreter.get_tensor_details() if len(d["shape"]) == 4}
  assert np.float32 not in kinds  # no feature map is of floats


def test_metadata_says_what_comes_out(exported):
  from mnv2_hpu.serving import metadata

  content = metadata.read(exported.export_dir)
  assert content["task"] == "segmentation"
  assert content["label_names"] == NAMES
  assert content["data"]["ignore_label"] == 255
  assert content["preprocessing"]["steps"][1].startswith("resize to 65 x 65")
  assert "index of the label name of each pixel" in content["outputs"]["masks"]


def test_the_check_compares_the_mean_iou_with_the_checkpoint_s(task, exported):
  from mnv2_hpu.serving import check_result, export, metadata
  from mnv2_hpu.serving.checks import metric, segmentation

  kind, folder = segmentation.SegmentationVerification, exported.export_dir
  params = cfg.ExperimentConfig(task=task[0].task_config)
  module, _ = export.build_module(params, exported.restored.path, "raw")
  records = params.task.validation_data.input_path
  models = {name: export.as_predict(module, p) for name, p in kind.programs.items()}
  _, expected = kind.measure(models, records, metadata.read(folder))
  found = metric.verify_metrics(folder, kind, records, expected)
  assert check_result.read_as(kind, folder) == found
  assert list(found.metrics) == FORMATS
  assert found.num_images == 6
  # Every seventh column is another class, some of them are ignored.
  assert expected["checkpoint"]["accuracy"] == pytest.approx(6 / 7, abs=0.02)
  assert 0.3 < expected["checkpoint"]["mIoU"] < 0.95
  for name in FORMATS[:2]:
    assert found.metrics[name] == pytest.approx(expected["checkpoint"], abs=2e-3)
  lines = found.summary().splitlines()
  assert lines[1].split() == ["format", "mIoU", "accuracy", "MB", "ms"]
  assert lines[-1].split()[0] == "tflite_int8"


def _verification(**miou):
  from mnv2_hpu.serving.checks import segmentation

  metrics = {name: {"mIoU": value, "accuracy": 0.9} for name, value in miou.items()}
  checkpoint = {"checkpoint": {"mIoU": 0.8, "accuracy": 0.9}}
  sizes = dict.fromkeys(metrics, 1.0)
  return segmentation.SegmentationVerification(
    "val", 9, metrics, checkpoint, sizes, sizes
  )


def test_a_gap_fails():
  _verification(saved_model=0.797, tflite=0.803, tflite_int8=0.76).compare()
  for name, value in {"saved_model": 0.79, "tflite": 0.81, "tflite_int8": 0.7}.items():
    message = rf"mIoU of 9 images is {value:.4f} of {name} and 0.8000 of the checkpoint"
    with pytest.raises(UserError, match=message):
      _verification(**{name: value}).compare()
  with pytest.raises(UserError, match="nan of tflite"):
    _verification(tflite=np.nan).compare()


def test_formats_that_a_segmenter_has_not(task):
  from mnv2_hpu.serving import export

  params = cfg.ExperimentConfig(task=task[0].task_config)
  with pytest.raises(UserError, match="'keras', which is none of segmentation"):
    export.export(params, "x", "y", formats=["keras"])


@pytest.mark.checkout
@pytest.mark.parametrize("kind", ["saved_model", "tflite"])
def test_the_examples_of_the_documentation(
  checkout, exported, models, kind, tmp_path, monkeypatch, capsys
):
  text = (checkout / "docs/segmentation.md").read_text()
  examples = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
  name = {"saved_model": "saved_model.load", "tflite": "Interpreter"}[kind]
  (code,) = (example for example in examples if name in example)
  monkeypatch.chdir(tmp_path)
  (tmp_path / "export").symlink_to(exported.export_dir)
  photo = tf.io.encode_png(_image(3, (90, 70))).numpy()
  (tmp_path / "photo.jpg").write_bytes(photo)
  exec(code, {})
  printed = dict(line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines())
  mask = models[kind](tf.constant([photo]))["masks"][0]
  for label, name in enumerate(NAMES):
    found = float(printed.get(name, 0))
    assert found == pytest.approx((mask == label).mean(), abs=0.01)
