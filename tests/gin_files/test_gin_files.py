"""Every shipped gin file is parsed, built, validated, and its arithmetic checked."""

import dataclasses
import re

import gin
import pytest
from official.core import exp_factory
from official.modeling import optimization

import mnv2_hpu
from mnv2_hpu.configs import gin_files
from mnv2_hpu.configs.nasnet_classification import NASNetRecipe
from mnv2_hpu.configs.object_detection import DetectionRecipe
from mnv2_hpu.configs.quantization import (
  ClassificationQATRecipe,
  DetectionQATRecipe,
  SegmentationPlusQATRecipe,
  SegmentationQATRecipe,
)
from mnv2_hpu.configs.recipe import Recipe
from mnv2_hpu.configs.semantic_segmentation import (
  SegmentationPlusRecipe,
  SegmentationRecipe,
)
from mnv2_hpu.dataloaders.dataset_info import COUNTS_OF_TASK, DatasetInfo, SplitInfo
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import nasnet_plans

mnv2_hpu.register()
GIN_DIR = gin_files.folder()
GIN_FILES = sorted(GIN_DIR.glob("**/*.gin"))
# Task and recipe of the experiments besides classification's.
OTHERS = {
  "nasnet_classification": ("classification", NASNetRecipe),
  "mobilenet_v2_ssdlite": ("detection", DetectionRecipe),
  "mobilenet_v2_deeplabv3": ("segmentation", SegmentationRecipe),
  "mobilenet_v2_deeplabv3plus": ("segmentation", SegmentationPlusRecipe),
  "mobilenet_v2_classification_qat": ("classification", ClassificationQATRecipe),
  "mobilenet_v2_ssdlite_qat": ("detection", DetectionQATRecipe),
  "mobilenet_v2_deeplabv3_qat": ("segmentation", SegmentationQATRecipe),
  "mobilenet_v2_deeplabv3plus_qat": ("segmentation", SegmentationPlusQATRecipe),
}
_EXPERIMENTS = r"mobilenet_v2_\w+|nasnet_classification"


@pytest.fixture(autouse=True)
def _clear_gin():
  gin.clear_config()
  yield
  gin.clear_config()


def _write_dataset_json(folder, per_class, task="classification"):
  """Writes the dataset.json of as many classes as there are counts."""
  splits = {
    name: SplitInfo(
      num_examples=sum(counts),
      num_shards=1,
      file_pattern=f"{name}-*",
      **{COUNTS_OF_TASK[task]: counts},
    )
    for name, counts in per_class.items()
  }
  num_classes = len(per_class["train"])
  DatasetInfo(
    source="image_folder",
    label_names=[str(label) for label in range(num_classes)],
    num_classes=num_classes,
    splits=splits,
    skipped=[],
    converted=[],
    source_checksum="",
    seed=0,
    validation_fraction=0.2,
    tool_version=mnv2_hpu.__version__,
    task=task,
  ).save(str(folder))


@pytest.fixture
def digits_dir(tmp_path):
  """A folder with the dataset.json that the quickstart's preparation writes."""
  _write_dataset_json(tmp_path, {"train": [143] * 10, "validation": [36] * 10})
  return tmp_path


def _build(file, data_dir, *bindings):
  files = [str(file)]
  if file.parent.name == "hardware":  # given after a recipe
    files.insert(0, str(GIN_DIR / "imagenet.gin"))
  gin.parse_config_files_and_bindings(files, [f"DATA_DIR = '{data_dir}'", *bindings])
  config = exp_factory.get_exp_config(
    _experiment(file) or "mobilenet_v2_classification"
  )
  config.validate()
  return config


def _experiment(file):
  """The experiment of this project that a file binds; None where it binds none."""
  found = re.search(rf"^({_EXPERIMENTS})\.", file.read_text(), re.M)
  return found and found[1]


def test_gin_files_are_found():
  assert {"imagenet.gin", "digits.gin"} <= {file.name for file in GIN_FILES}


@pytest.mark.parametrize("file", GIN_FILES, ids=lambda file: file.name)
def test_gin_file_parses_builds_and_validates(file, digits_dir):
  if _experiment(file) in OTHERS:
    task, _ = OTHERS[_experiment(file)]
    _write_dataset_json(digits_dir, {"train": [143] * 3, "validation": [36] * 3}, task)
  if _experiment(file):
    required = {"HOSTS": "node-a:8,node-b:8", "START": "runs/before"}
    config = _build(
      file,
      digits_dir,
      *(f"{k} = '{v}'" for k, v in required.items() if f"%{k}" in file.read_text()),
    )
    assert config.trainer.train_steps > 0
    assert config.task.train_data.global_batch_size > 0
  else:
    gin.parse_config_file(str(file))


@pytest.mark.parametrize("file", GIN_FILES, ids=lambda file: file.name)
def test_gin_file_says_how_it_is_run(file):
  header = re.split(r"\n\n(?:import|include)", file.read_text())[0]
  assert all(line.startswith("#") for line in header.splitlines())
  assert "--gin_file=" in header


def test_imagenet_is_slims_recipe(digits_dir):
  """Numbers from slim's train_image_classifier.py and the paper, section 6.1."""
  config = _build(GIN_DIR / "imagenet.gin", digits_dir)
  task, optimizer = config.task, config.trainer.optimizer_config
  assert task.model.num_classes == 1001
  assert task.model.input_size == [224, 224, 3]
  assert task.model.dropout_rate == 0.2
  assert task.losses.label_smoothing == 0.1
  assert task.losses.l2_weight_decay == 4e-5
  assert task.train_data.global_batch_size == 96
  assert optimizer.optimizer.type == "rmsprop_tf1"
  rmsprop = optimizer.optimizer.get()
  assert (rmsprop.rho, rmsprop.momentum, rmsprop.epsilon) == (0.9, 0.9, 1.0)
  rate = optimizer.learning_rate.get()
  assert rate.initial_learning_rate == 0.045
  assert rate.decay_rate == 0.98
  assert rate.decay_steps == 33363  # int(1281167 / 96 * 2.5)
  assert rate.staircase is True
  assert optimizer.ema.average_decay == 0.9999
  assert optimizer.ema.trainable_weights_only is False
  assert config.trainer.steps_per_loop == 20
  assert config.runtime.mixed_precision_dtype == "bfloat16"


@pytest.mark.parametrize(
  ("name", "size", "batch_size", "rate", "decay", "dropped"),
  [
    ("nasnet_mobile", 224, 32, 0.04, 4e-5, 1.0),
    ("nasnet_large", 331, 16, 0.015, 5e-5, 0.7),
    ("pnasnet_mobile", 224, 32, 0.04, 4e-5, 1.0),
    ("pnasnet_large", 331, 16, 0.015, 4e-5, 0.6),
  ],
)
def test_nasnet_is_slims_notes(
  digits_dir, monkeypatch, name, size, batch_size, rate, decay, dropped
):
  """Numbers of the notes beside the hparams in slim's nasnet.py and pnasnet.py."""
  replicas = 1600 // batch_size
  monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", str(replicas))
  monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
  binding = "nasnet_classification.learning_rate_scaling = 'slim'"
  config = _build(GIN_DIR / "recipes" / f"{name}.gin", digits_dir, binding)
  task, optimizer = config.task, config.trainer.optimizer_config
  assert (task.model.num_classes, task.model.input_size) == (1001, [size, size, 3])
  backbone = task.model.backbone
  assert (backbone.type, backbone.get().model_id) == (name.partition("_")[0], name)
  assert nasnet_plans.HPARAMS[name].drop_path_keep_prob == dropped
  assert backbone.get().total_training_steps == config.trainer.train_steps
  assert config.trainer.train_steps == pytest.approx(250_000, rel=1e-3)
  assert (task.model.dropout_rate, task.model.auxiliary_loss_weight) == (0.5, 0.4)
  assert task.model.norm_activation.norm_momentum == 0.9997
  assert (task.losses.label_smoothing, task.losses.l2_weight_decay) == (0.1, decay)
  assert task.train_data.global_batch_size == 1600
  assert optimizer.optimizer.get().global_clipnorm == 10
  learning_rate = optimizer.learning_rate.get()
  assert learning_rate.initial_learning_rate * learning_rate.scale == pytest.approx(
    rate * replicas
  )
  assert learning_rate.decay_rate == 0.97
  assert learning_rate.decay_steps == int(1281167 / 1600 * 2.4)


def test_nasnet_cifar_is_slims_notes(digits_dir):
  bindings = [
    "nasnet_classification.num_train_examples = 50000",
    "nasnet_classification.num_classes = 10",
  ]
  config = _build(GIN_DIR / "recipes/nasnet_cifar.gin", digits_dir, *bindings)
  task, optimizer = config.task, config.trainer.optimizer_config
  assert task.model.input_size == [32, 32, 3]
  assert task.model.backbone.get().model_id == "nasnet_cifar"
  # Slim's total_training_steps.
  assert task.model.backbone.get().total_training_steps == 937_500
  assert config.trainer.train_steps == 937_500
  assert task.model.norm_activation.norm_momentum == 0.9
  assert task.losses.l2_weight_decay == 5e-4
  assert optimizer.optimizer.get().global_clipnorm == 5
  rate = optimizer.learning_rate
  assert (rate.type, rate.get().initial_learning_rate) == ("cosine", 0.025)


def test_ssdlite_is_the_object_detection_apis_recipe(tmp_path):
  """Numbers of ssdlite_mobilenet_v2_coco.config, on the images of COCO 2017."""
  config = _build(
    GIN_DIR / "ssdlite_coco.gin",
    tmp_path,
    "mobilenet_v2_ssdlite.num_classes = 90",
    "mobilenet_v2_ssdlite.num_train_examples = 118287",
  )
  task, optimizer = config.task, config.trainer.optimizer_config
  assert task.model.num_classes == 90
  assert task.model.input_size == [300, 300, 3]
  assert task.model.norm_activation.norm_momentum == 0.9997
  assert task.losses.l2_weight_decay == 4e-5
  assert task.train_data.global_batch_size == 24
  assert task.train_data.preprocessing_options.random_crop == "ssd"
  assert config.trainer.train_steps == pytest.approx(200_000, abs=20)
  assert optimizer.optimizer.type == "rmsprop_tf1"
  rmsprop = optimizer.optimizer.get()
  assert (rmsprop.rho, rmsprop.momentum, rmsprop.epsilon) == (0.9, 0.9, 1.0)
  rate = optimizer.learning_rate.get()
  assert rate.initial_learning_rate == 0.004
  assert (rate.decay_rate, rate.staircase) == (0.95, True)
  assert rate.decay_steps > config.trainer.train_steps  # never
  assert optimizer.ema.average_decay == 0.9999
  assert optimizer.ema.trainable_weights_only is True


def test_deeplab_is_the_papers_recipe(tmp_path):
  """Numbers of the paper, section 6.3, and research/deeplab's page on VOC."""
  counts = {"train": [10582, *[0] * 20], "validation": [1449, *[0] * 20]}
  _write_dataset_json(tmp_path, counts, "segmentation")
  config = _build(GIN_DIR / "deeplabv3_voc.gin", tmp_path)
  task, optimizer = config.task, config.trainer.optimizer_config
  assert task.model.num_classes == 21
  assert task.model.input_size == [513, 513, 3]
  assert task.model.backbone.get().output_stride == 16
  assert (task.model.aspp, task.model.decoder) == ("none", "none")
  assert task.model.head_norm_activation.norm_momentum == 0.9997
  assert task.model.dropout_rate == 0.1
  assert task.losses.l2_weight_decay == 4e-5
  assert task.losses.ignore_label == 255
  assert task.train_data.global_batch_size == 16
  assert task.evaluation.scales == [1.0]
  assert config.trainer.train_steps == 30_000
  assert (optimizer.optimizer.type, optimizer.optimizer.get().momentum) == ("sgd", 0.9)
  rate = optimizer.learning_rate.get()
  assert (rate.initial_learning_rate, rate.power) == (0.007, 0.9)
  assert (rate.end_learning_rate, rate.decay_steps) == (0.0, 30_000)
  assert optimizer.ema is None


@pytest.mark.parametrize("file", GIN_FILES, ids=lambda file: file.name)
def test_gin_file_repeats_no_default(file):
  """A value stands once: what a file binds differs from the recipe's default."""
  bound = re.findall(rf"^(?:{_EXPERIMENTS})\.(\w+) = ([^#\n]+)", file.read_text(), re.M)
  _, recipe = OTHERS.get(_experiment(file), ("classification", Recipe))
  defaults = {field.name: field.default for field in dataclasses.fields(recipe)}
  for name, value in bound:
    assert (
      value.strip().startswith("%") or gin.config.parse_value(value) != defaults[name]
    )


def test_numbers_of_the_data_set_come_from_dataset_json(digits_dir):
  config = _build(GIN_DIR / "digits.gin", digits_dir)
  assert config.task.model.num_classes == 10
  assert config.task.train_data.num_examples == 1430
  assert config.task.validation_data.num_examples == 360


@pytest.mark.parametrize("train", [[20], [20, 0]])
def test_images_of_one_class_are_refused(tmp_path, train):
  _write_dataset_json(tmp_path, {"train": train, "validation": train})
  with pytest.raises(UserError, match="training images of one class only"):
    _build(GIN_DIR / "image_folder.gin", tmp_path)


@pytest.mark.parametrize(
  ("workers", "scaling", "decay_steps", "warmup_steps", "rates"),
  [
    # Steps and rates by hand: 1,281,167 images, 96 a worker, decay every 2.5 epochs.
    (1, "slim", 33363, 0, {0: 0.045, 33362: 0.045, 33363: 0.0441}),
    (8, "slim", 4170, 0, {0: 0.36, 4169: 0.36, 4170: 0.3528}),
    (8, "linear", 4170, 8340, {0: 0.0, 834: 0.036, 4169: 0.17995, 9000: 0.345744}),
    (16, "linear", 2085, 4170, {0: 0.0, 417: 0.072, 4170: 0.691488}),
  ],
)
def test_learning_rates_of_several_workers(
  digits_dir, monkeypatch, workers, scaling, decay_steps, warmup_steps, rates
):
  monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", str(workers))
  monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
  binding = f"mobilenet_v2_classification.learning_rate_scaling = '{scaling}'"
  config = _build(GIN_DIR / "imagenet.gin", digits_dir, binding)
  rate = config.trainer.optimizer_config.learning_rate.get()
  assert config.task.train_data.global_batch_size == 96 * workers
  assert rate.decay_steps == decay_steps
  assert round(rate.warmup_steps) == pytest.approx(warmup_steps, abs=10)
  factory = optimization.OptimizerFactory(config.trainer.optimizer_config)
  schedule = factory.build_learning_rate()
  for step, expected in rates.items():
    assert float(schedule(step)) == pytest.approx(expected, rel=2e-3, abs=1e-9)
