"""An imported detector is a run of detection, and a start for another."""

import gin
import golden_detection as golden
import numpy as np
import pytest
from official.core import exp_factory, task_factory
from PIL import Image

import mnv2_hpu
from mnv2_hpu.checkpoints import load_detector, restore
from mnv2_hpu.configs import quantization
from mnv2_hpu.core import run_record
from mnv2_hpu.core.imported import run as imported_run
from mnv2_hpu.errors import UserError

mnv2_hpu.register()


@pytest.fixture(autouse=True)
def _clear_gin():
  gin.clear_config()
  yield
  gin.clear_config()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  path = str(tmp_path_factory.mktemp("api") / "model.ckpt")
  golden.write_checkpoint(path, 12, ema=False)
  return path


@pytest.fixture(scope="module")
def run(checkpoint, tmp_path_factory):
  folder = tmp_path_factory.mktemp("imported") / "run"
  imported = imported_run.import_checkpoint(checkpoint, str(folder))
  assert "width_multiplier=0.35, num_classes=7" in imported.summary()
  assert "mnv2-train --experiment=mobilenet_v2_ssdlite --gin_file" in imported.summary()
  return folder


def test_the_run_computes_what_the_weights_did(checkpoint, run):
  params = run_record.load(str(run))
  model = task_factory.get_task(params.task).build_model()
  restore.restore_weights(model, str(run), "raw")
  images = np.random.default_rng(0).uniform(-1, 1, (1, 300, 300, 3)).astype("float32")
  expected, _ = load_detector(checkpoint)
  for name, value in expected(images, training=False).items():
    np.testing.assert_array_equal(model(images, training=False)[name], value)


@pytest.mark.parametrize(("num_classes", "is_whole"), [(7, True), (3, False)])
def test_its_gin_file_starts_from_the_weights(checkpoint, run, num_classes, is_whole):
  name = "mobilenet_v2_ssdlite"
  bindings = {
    "DATA_DIR": "'data'",
    f"{name}.num_classes": num_classes,
    f"{name}.num_train_examples": 32,
  }
  gin.parse_config_files_and_bindings(
    [str(run / "fine_tune.gin")], [f"{k} = {v}" for k, v in bindings.items()]
  )
  task = task_factory.get_task(exp_factory.get_exp_config(name).task)
  model = task.build_model()
  task.initialize(model)
  expected, _ = load_detector(checkpoint)

  def agrees(of):
    kernels = [of(network).kernel.numpy() for network in (model, expected)]
    return np.array_equal(*kernels)

  assert agrees(lambda network: network.backbone.get_layer("Conv"))
  box, classes = "BoxEncodingPredictor", "ClassPredictor"
  assert agrees(lambda network: network.get_layer(f"BoxPredictor_0/{box}"))
  assert agrees(lambda network: network.get_layer(f"BoxPredictor_5/{classes}")) == (
    is_whole
  )


def test_training_for_int8_takes_its_network(run, tmp_path):
  recipe = quantization.DetectionQATRecipe(
    data_dir=str(tmp_path),
    init_checkpoint=str(run),
    num_classes=7,
    num_train_examples=96,
  )
  model = quantization.experiment(recipe).task.model
  assert model.backbone.get().width_multiplier == 0.35
  assert model.num_classes == 7


def test_it_finds_boxes_in_images(run, tmp_path):
  from mnv2_hpu.evaluation import prediction

  random = np.random.default_rng(0)
  image = Image.fromarray(random.integers(0, 256, (40, 70, 3), np.uint8))
  image.save(tmp_path / "image.png")
  predictor = prediction.load(str(run))
  (found,) = prediction.predict_files(predictor, [str(tmp_path / "image.png")])
  assert found.detections
  for box in found.detections:
    ymin, xmin, ymax, xmax = box.box
    assert 0 <= ymin <= ymax <= 40
    assert 0 <= xmin <= xmax <= 70


def test_weights_of_another_width_than_required_are_refused(checkpoint, tmp_path):
  with pytest.raises(UserError, match=r"width_multiplier=0\.35, but --width_mult"):
    imported_run.import_checkpoint(
      checkpoint, str(tmp_path / "run"), width_multiplier=1.0
    )
  assert not (tmp_path / "run").exists()
