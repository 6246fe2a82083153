"""An imported segmenter is a run of segmentation, and a start for another."""

import gzip
import json

import gin
import import_recipes
import numpy as np
import pytest
from official.core import exp_factory, task_factory
from PIL import Image

import mnv2_hpu
from mnv2_hpu.checkpoints import load_segmenter, restore
from mnv2_hpu.core import run_record
from mnv2_hpu.core.imported import run as imported_run

mnv2_hpu.register()


@pytest.fixture(autouse=True)
def _clear_gin():
  gin.clear_config()
  yield
  gin.clear_config()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
  """Hugging Face's segmenter, as its hub gives it."""
  folder = tmp_path_factory.mktemp("hub")
  packed = (import_recipes.GOLDEN / "hf_seg_0.35.json.gz").read_bytes()
  case = json.loads(gzip.decompress(packed))
  import_recipes.write(case, folder)
  (folder / "config.json").write_text(json.dumps(case["config"]))
  return str(folder)


@pytest.fixture(scope="module")
def run(hub, tmp_path_factory):
  folder = tmp_path_factory.mktemp("imported") / "run"
  imported = imported_run.import_checkpoint(hub, str(folder))
  assert "aspp=none, decoder=none, num_classes=5" in imported.summary()
  assert "--experiment=mobilenet_v2_deeplabv3 --gin_file" in imported.summary()
  return folder


def test_the_run_computes_what_the_weights_did(hub, run):
  params = run_record.load(str(run))
  model = task_factory.get_task(params.task).build_model()
  restore.restore_weights(model, str(run), "raw")
  images = import_recipes.images(1, 1, 65, 49)
  expected, _ = load_segmenter(hub)
  np.testing.assert_array_equal(
    model(images, training=False)["logits"], expected(images, training=False)["logits"]
  )


@pytest.mark.parametrize(("num_classes", "is_whole"), [(5, True), (3, False)])
def test_its_gin_file_starts_from_the_weights(hub, run, num_classes, is_whole):
  name = "mobilenet_v2_deeplabv3"
  bindings = {
    "DATA_DIR": "'data'",
    f"{name}.num_classes": num_classes,
    f"{name}.num_train_examples": 32,
    f"{name}.image_size": 65,
  }
  gin.parse_config_files_and_bindings(
    [str(run / "fine_tune.gin")], [f"{k} = {v}" for k, v in bindings.items()]
  )
  task = task_factory.get_task(exp_factory.get_exp_config(name).task)
  model = task.build_model()
  task.initialize(model)
  expected, _ = load_segmenter(hub)

  def agrees(of):
    kernels = [of(network).kernel.numpy() for network in (model, expected)]
    return np.array_equal(*kernels)

  assert agrees(lambda network: network.backbone.get_layer("Conv"))
  assert agrees(lambda network: network.get_layer("aspp0"))
  assert agrees(lambda network: network.get_layer("logits/semantic")) == is_whole


def test_it_labels_the_pixels_of_images(run, tmp_path):
  from mnv2_hpu.evaluation import prediction

  random = np.random.default_rng(0)
  image = Image.fromarray(random.integers(0, 256, (40, 70, 3), np.uint8))
  image.save(tmp_path / "image.png")
  predictor = prediction.load(str(run))
  (found,) = prediction.predict_files(predictor, [str(tmp_path / "image.png")])
  assert found.mask.shape == (40, 70)
  assert sum(area.pixels for area in found.areas) == 40 * 70
  assert {area.name for area in found.areas} <= set(predictor.label_names)
