"""An imported slim checkpoint starts Model Garden's tasks with slim's numbers."""

import json
import os
import re
import shutil
import subprocess
import sys

import golden_recipes
import numpy as np
import pytest
import tensorflow as tf
from helpers_serving import write_records
from official.core import task_factory
from official.vision.configs import backbones as upstream_backbones
from official.vision.configs import image_classification as upstream_cfg
from official.vision.tasks import image_classification as upstream_task
from PIL import Image

import mnv2_hpu
from mnv2_hpu.checkpoints import import_record, load_pretrained
from mnv2_hpu.checkpoints.pretrained import PretrainedInfo
from mnv2_hpu.configs import backbones
from mnv2_hpu.configs import image_classification as exp_cfg
from mnv2_hpu.core.imported import run as imported_run
from mnv2_hpu.data_preparation import digits, prepare
from mnv2_hpu.dataloaders.inception_preprocessing import preprocess_for_eval
from mnv2_hpu.dataloaders.input_fields import PreprocessingOptions
from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation import prediction

HUB = golden_recipes.GOLDEN / "import" / "hf_0.35"
SLIMS = str(golden_recipes.GOLDEN / "checkpoint")
EMA = "/ExponentialMovingAverage"

mnv2_hpu.register()


def import_into(folder, weights="ema", source=SLIMS, **required):
  return imported_run.import_checkpoint(
    source, str(folder), weights=weights, **required
  ).path


def without_logits(path):
  reader = tf.train.load_checkpoint(SLIMS)
  names = [name for name in reader.get_variable_to_shape_map() if "Logits" not in name]
  tf.raw_ops.SaveV2(
    prefix=str(path),
    tensor_names=names,
    shape_and_slices=[""] * len(names),
    tensors=[reader.get_tensor(name) for name in names],
  )
  return str(path)


@pytest.fixture(scope="module", params=["ema", "raw"])
def imported(request, tmp_path_factory):
  """Weights, the folder and the files' prefix."""
  folder = tmp_path_factory.mktemp("imported") / "new" / "folder"
  return request.param, folder, import_into(folder, request.param)


def config_of(config_class, checkpoint, modules, num_classes=11, **backbone):
  config = config_class(init_checkpoint=checkpoint, init_checkpoint_modules=modules)
  config.model.num_classes = num_classes
  config.model.input_size = [64, 64, 3]
  config.model.backbone = upstream_backbones.Backbone(
    type="mobilenet_v2",
    mobilenet_v2=backbones.MobileNetV2(width_multiplier=0.35, **backbone),
  )
  config.model.norm_activation.activation = "relu6"
  config.model.norm_activation.norm_epsilon = 0.001
  return config


def assert_golden_logits(model, weights):
  arrays, _ = golden_recipes.load("checkpoint_logits.npz")
  logits = model(golden_recipes.images(78, 4, 64), training=False)
  np.testing.assert_allclose(logits, arrays[f"logits_{weights}"], rtol=0, atol=1e-4)


def test_a_task_starts_with_the_golden_logits(imported):
  weights, folder, _ = imported
  config = config_of(exp_cfg.ImageClassificationTask, str(folder), "all")
  task = task_factory.get_task(config)
  model = task.build_model()
  task.initialize(model)
  assert_golden_logits(model, weights)


def test_a_stock_task_starts_with_the_golden_logits(imported):
  weights, _, prefix = imported
  config = config_of(upstream_cfg.ImageClassificationTask, prefix, "all")
  task = upstream_task.ImageClassificationTask(config)
  model = task.build_model()
  task.initialize(model)
  assert_golden_logits(model, weights)


def assert_backbone_starts_from(prefix):
  config = config_of(
    exp_cfg.ImageClassificationTask,
    prefix,
    "backbone",
    num_classes=5,
    # As segmentation and detection build it.
    output_stride=16,
    output_intermediate_endpoints=True,
  )
  task = task_factory.get_task(config)
  model = task.build_model()
  task.initialize(model)
  reader = tf.train.load_checkpoint(SLIMS)
  for variable in model.backbone.variables:
    name = golden_recipes.slim_name(variable.name)
    np.testing.assert_array_equal(variable, reader.get_tensor(name + EMA), name)


@pytest.mark.parametrize("has_logits", [True, False])
def test_the_backbone_alone_with_or_without_logits(tmp_path, has_logits):
  source = SLIMS if has_logits else without_logits(tmp_path / "model.ckpt")
  prefix = import_into(tmp_path / "imported", source=source)
  names = [name for name, _ in tf.train.list_variables(prefix)]
  # Logits that slim did not give are not made up.
  assert any(name.startswith("model/") for name in names) == has_logits
  assert_backbone_starts_from(prefix)


def test_the_metadata_says_what_the_weights_expect(imported):
  weights, folder, prefix = imported
  assert prefix == str(folder / "ckpt-1234")
  metadata = json.loads((folder / "import.json").read_text())
  assert metadata["weights"] == weights
  assert metadata["global_step"] == 1234
  network = {
    "width_multiplier": 0.35,
    "finegrain_classification_mode": True,
    "num_classes": 11,
    "use_explicit_padding": False,
    "norm_epsilon": 0.001,
  }
  assert network.items() <= metadata.items()
  assert metadata["preprocessing"]["name"] == "inception"
  assert metadata["labels"] == {"background_class": None, "first_class": None}


def test_the_background_class_of_imagenet_is_noted():
  info = PretrainedInfo("slim", "model", 1.0, True, 1001, background_class=True)
  imported = imported_run.ImportedCheckpoint("imported/ckpt-0", info)
  assert imported_run.metadata(info)["labels"] == {
    "background_class": 0,
    "first_class": 1,
  }
  assert "0 is the background" in imported.summary()


@pytest.fixture(scope="module")
def of_hugging_face(tmp_path_factory):
  """Weights that pad as PyTorch does, with label names, imported."""
  hub = tmp_path_factory.mktemp("hub")
  shutil.copytree(HUB, hub, dirs_exist_ok=True)
  config = json.loads((hub / "config.json").read_text())
  config |= {"tf_padding": False, "layer_norm_eps": 1e-5}
  config["id2label"] = {str(i): f"kind {i}" for i in range(5)}
  (hub / "config.json").write_text(json.dumps(config))
  folder = tmp_path_factory.mktemp("imported") / "folder"
  return import_into(folder, source=str(hub))


def test_an_imported_folder_predicts_as_a_run(of_hugging_face, tmp_path):
  folder = os.path.dirname(of_hugging_face)
  image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
  Image.fromarray(image).save(tmp_path / "image.png")
  predictor = prediction.load(folder)
  (result,) = prediction.predict_files(predictor, [str(tmp_path / "image.png")])

  model, info = load_pretrained(os.path.join(HUB))
  pixels = preprocess_for_eval(
    tf.io.read_file(str(tmp_path / "image.png")),
    info.image_size,
    info.image_size,
    PreprocessingOptions(),
  )
  with_same_padding = tf.nn.softmax(model(pixels[tf.newaxis]))[0].numpy()
  names = [name for name, _ in result.classes]
  assert all(name.startswith("kind ") for name in names)
  probabilities = dict(result.classes)
  ours = [probabilities.get(f"kind {i}", 0.0) for i in range(5)]
  # Another padding is another function: the import must not forget it.
  assert np.abs(ours - with_same_padding).max() > 1e-3


def test_a_start_that_would_be_another_function_is_refused(of_hugging_face):
  config = config_of(exp_cfg.ImageClassificationTask, of_hugging_face, "backbone", 5)
  with pytest.raises(UserError, match=r"use_explicit_padding = True; this .* = False"):
    task_factory.get_task(config, logging_dir="new")
  config.model.backbone.mobilenet_v2.use_explicit_padding = True
  with pytest.raises(UserError, match=r"norm_epsilon = 1e-05; this .* = 0.001"):
    task_factory.get_task(config, logging_dir="new")
  config.model.norm_activation.norm_epsilon = 1e-5
  task = task_factory.get_task(config, logging_dir="new")
  task.initialize(task.build_model())


def test_a_folder_in_use_is_left_alone(tmp_path):
  (tmp_path / "ckpt-1.index").write_text("mine")
  with pytest.raises(UserError, match="not an empty folder"):
    import_into(tmp_path)
  assert [file.name for file in tmp_path.iterdir()] == ["ckpt-1.index"]


def test_another_network_than_expected_leaves_nothing_behind(tmp_path):
  with pytest.raises(UserError, match="num_classes=11"):
    import_into(tmp_path / "imported", num_classes=1001)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_program(programs, tmp_path):
  command = "mnv2_hpu.cli.import_checkpoint", f"--checkpoint={SLIMS}"
  output_dir = f"--output_dir={tmp_path / 'imported'}"
  done = programs.run(*command, output_dir)
  assert done.returncode == 0, done.output
  assert "width_multiplier=0.35" in done.output
  assert "pixels / 127.5 - 1" in done.output
  assert (tmp_path / "imported" / "ckpt-1234.index").exists()
  again = programs.run(*command, output_dir)
  assert again.returncode == 1
  assert again.output.splitlines()[-1].startswith("error: --output_dir=")


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["mnv2_hpu.cli.train", "official.vision.train"])
def test_its_gin_file_serves_elsewhere_and_moved(of_hugging_face, tmp_path, driver):
  """From another folder than the checkout's, and when the folder has moved."""
  moved = shutil.copytree(os.path.dirname(of_hugging_face), tmp_path / "moved")
  gin_file = moved / "fine_tune.gin"
  # As if the folder that it was written to were gone.
  was = os.path.dirname(of_hugging_face)
  gin_file.write_text(gin_file.read_text().replace(repr(was), repr(was + "_gone")))
  (tmp_path / "data").mkdir()
  done = subprocess.run(
    [
      *(sys.executable, "-m", driver, "--gin_file=moved/fine_tune.gin"),
      *("--experiment=mobilenet_v2_classification", "--mode=train", "--model_dir=run"),
      # The weights are looked for before the data, which is not there.
      "--gin_params=DATA_DIR = 'data'",
      "--gin_params=mobilenet_v2_classification.num_classes = 3",
      "--gin_params=mobilenet_v2_classification.num_train_examples = 64",
    ],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
  assert "data/train" in error


def test_another_start_than_the_gin_file_says_is_not_replaced(of_hugging_face):
  folder = os.path.dirname(of_hugging_face)
  gin_files = [os.path.join(folder, "fine_tune.gin")]
  assert import_record.find_moved("misspelt", gin_files) == "misspelt"
  assert import_record.find_moved("", gin_files) == ""


@pytest.mark.slow
def test_its_gin_file_trains_from_the_weights(of_hugging_face, programs, tmp_path):
  folder = os.path.dirname(of_hugging_face)
  digits.write_digits(str(tmp_path / "images"))
  prepare.prepare(
    prepare.PreparationOptions(
      input_dir=str(tmp_path / "images"), output_dir=str(tmp_path / "data")
    )
  )
  done = programs.run(
    "mnv2_hpu.cli.train",
    f"--gin_file={folder}/fine_tune.gin",
    f"--gin_params=DATA_DIR = '{tmp_path / 'data'}'",
    "--gin_params=mobilenet_v2_classification.train_epochs = 0.1",
    "--gin_params=mobilenet_v2_classification.image_size = 32",
    f"--model_dir={tmp_path / 'run'}",
  )
  assert done.returncode == 0, done.output[-3000:]
  assert "5] there, [1280, 10] here" in done.output
  record = json.loads((tmp_path / "run" / "run_record.json").read_text())
  model = record["config"]["task"]["model"]
  assert model["backbone"]["mobilenet_v2"]["use_explicit_padding"]
  assert model["norm_activation"]["norm_epsilon"] == 1e-5


@pytest.mark.slow
def test_an_imported_folder_evaluates_with_the_names_of_its_classes(
  of_hugging_face, programs, tmp_path
):
  folder = os.path.dirname(of_hugging_face)
  records = tmp_path / "validation-00000-of-00001"
  image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
  write_records(records, [image] * 5, list(range(5)))
  done = programs.run("mnv2_hpu.cli.evaluate", f"--model_dir={folder}")
  assert done.returncode == 1
  assert "Give --input_path" in done.output
  done = programs.run(
    "mnv2_hpu.cli.evaluate", f"--model_dir={folder}", f"--input_path={records}"
  )
  assert done.returncode == 0, done.output[-3000:]
  assert re.search(r"accuracy +0\.20000", done.output)
  assert "kind 4" in done.output
