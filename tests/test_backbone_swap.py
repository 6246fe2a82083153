"""The backbone under other tasks, by configuration alone, through the stock driver."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import helpers_programs
import helpers_tiny_data
import numpy as np
import pytest
import tensorflow as tf
import yaml
from official.core import exp_factory, task_factory
from official.modeling import hyperparams
from tensorflow.core.util import event_pb2

import mnv2_hpu
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import gin_files
from mnv2_hpu.modeling import mobilenet_v2

mnv2_hpu.register()

pytestmark = [
  pytest.mark.slow,
  pytest.mark.long("the stock driver traces a detector's graph twice"),
]

WIDTH = 0.35
STEPS = 2
BATCH = 2
IMAGES = 4


class Swap(NamedTuple):
  """One stock task that takes the backbone.

  Attributes:
    experiment: Model Garden's name of the experiment.
    overlay: the shipped file.
    write_records: makes the tiny data.
    size: height and width of the input, a multiple of the coarsest stride.
    metrics: names that evaluation writes.
    tiny: what makes the experiment small, over the overlay.
  """

  experiment: str
  overlay: str
  write_records: Any
  size: int
  metrics: tuple[str, ...]
  tiny: Mapping[str, Any]


SWAPS = {
  "retinanet": Swap(
    "retinanet_resnetfpn_coco",
    "swap/retinanet.yaml",
    helpers_tiny_data.write_detection_records,
    128,
    ("AP", "AP50", "ARmax100"),
    {
      "annotation_file": None,
      "model": {"input_size": [128, 128, 3]},
    },
  ),
  "maskrcnn": Swap(
    "maskrcnn_mobilenet_coco",
    "swap/maskrcnn.yaml",
    helpers_tiny_data.write_detection_records,
    64,
    ("AP", "AP50", "mask_AP", "mask_AP50"),
    {
      "annotation_file": None,
      "model": {
        "input_size": [64, 64, 3],
        "roi_generator": {"num_proposals": 20, "test_num_proposals": 20},
        "roi_sampler": {"num_sampled_rois": 16},
        "mask_sampler": {"num_sampled_masks": 4},
        "detection_head": {"num_convs": 1, "fc_dims": 16},
        "mask_head": {"num_convs": 1},
      },
    },
  ),
  "semantic_segmentation": Swap(
    "mnv2_deeplabv3_pascal",
    "swap/semantic_segmentation.yaml",
    helpers_tiny_data.write_segmentation_records,
    64,
    ("mean_iou", "iou/0", "iou/2"),
    {
      "train_data": {"output_size": [64, 64]},
      "validation_data": {
        "output_size": [64, 64],
        "groundtruth_padded_size": [64, 64],
      },
    },
  ),
}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
  """Nested dictionaries into one; `over` wins."""
  both = dict(base)
  for key, value in over.items():
    nested = isinstance(value, Mapping) and key in both
    both[key] = merge(both[key], value) if nested else value
  return both


def tiny_overrides(swap: Swap, records: Path) -> dict[str, Any]:
  """What a user would set for a first try on a CPU with a handful of images."""
  data = {"input_path": str(records), "global_batch_size": BATCH, "dtype": "float32"}
  task = {
    "model": {
      "num_classes": helpers_tiny_data.NUM_CLASSES,
      "backbone": {"mobilenet_v2": {"width_multiplier": WIDTH}},
    },
    "train_data": {**data, "shuffle_buffer_size": IMAGES},
    "validation_data": data,
  }
  trainer = dict.fromkeys(
    (
      "train_steps",
      "steps_per_loop",
      "summary_interval",
      "checkpoint_interval",
      "validation_interval",
    ),
    STEPS,
  )
  return {
    "runtime": {
      "distribution_strategy": "one_device",
      "mixed_precision_dtype": "float32",
    },
    "task": merge(task, swap.tiny),
    "trainer": {**trainer, "validation_steps": IMAGES // BATCH},
  }


def run_stock_driver(
  programs: helpers_programs.Programs, swap: Swap, directory: Path
) -> Path:
  """Trains and evaluates in a process of its own; returns the model directory."""
  records = swap.write_records(directory / "tiny.tfrecord", IMAGES, swap.size)
  tiny_yaml = directory / "tiny.yaml"
  tiny_yaml.write_text(yaml.safe_dump(tiny_overrides(swap, records)))
  model_dir = directory / "model"
  done = programs.run(
    helpers_programs.STOCK_DRIVER,
    f"--experiment={swap.experiment}",
    f"--gin_file={gin_files.path('plugin.gin')}",
    f"--config_file={gin_files.path(swap.overlay)}",
    f"--config_file={tiny_yaml}",
    "--mode=train_and_eval",
    f"--model_dir={model_dir}",
  )
  assert done.returncode == 0, done.output[-6000:]
  return model_dir


def scalars(event_dir: Path) -> dict[str, float]:
  """The last value of each scalar in the event files of a directory."""
  values = {}
  for path in sorted(event_dir.glob("events.out.tfevents.*")):
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
      for value in event_pb2.Event.FromString(record).summary.value:
        tensor = tf.make_ndarray(value.tensor)
        if tensor.shape == () and tensor.dtype.kind == "f":
          values[value.tag] = float(tensor)
  return values


def backbone_parameters(checkpoint: str) -> int:
  """Counts the numbers that a checkpoint stores for its backbone."""
  shapes = tf.train.load_checkpoint(checkpoint).get_variable_to_shape_map()
  return sum(
    math.prod(shape)
    for key, shape in shapes.items()
    if key.startswith("backbone/") and ".OPTIMIZER_SLOT" not in key
  )


@pytest.mark.parametrize("name", SWAPS)
def test_stock_driver_trains_and_evaluates_over_mobilenet_v2(name, programs, tmp_path):
  swap = SWAPS[name]
  model_dir = run_stock_driver(programs, swap, tmp_path)

  resolved = hyperparams.read_yaml_to_params_dict(str(model_dir / "params.yaml"))
  assert resolved.task.model.backbone.type == "mobilenet_v2"
  checkpoint = tf.train.latest_checkpoint(str(model_dir))
  assert checkpoint == str(model_dir / f"ckpt-{STEPS}")
  keras_applications = keras.applications.MobileNetV2(
    alpha=WIDTH, include_top=False, weights=None
  )
  assert backbone_parameters(checkpoint) == keras_applications.count_params()

  assert np.isfinite(scalars(model_dir / "train")["training_loss"])
  evaluated = scalars(model_dir / "validation")
  for metric in swap.metrics:
    assert 0 <= evaluated[metric] <= 1, (metric, evaluated)


def load_task(name: str, directory: Path, overrides: Mapping[str, Any]) -> Any:
  """Builds the task of the same configuration in this process."""
  swap = SWAPS[name]
  records = swap.write_records(directory / "tiny.tfrecord", IMAGES, swap.size)
  params = exp_factory.get_exp_config(swap.experiment)
  params.override(
    yaml.safe_load(Path(gin_files.path(swap.overlay)).read_text()), is_strict=True
  )
  params.override(tiny_overrides(swap, records), is_strict=True)
  params.override({"task": overrides}, is_strict=True)
  params.validate()
  return task_factory.get_task(params.task)


def test_command_line_overrides_are_enough():
  params = hyperparams.override_params_dict(
    exp_factory.get_exp_config("retinanet_resnetfpn_coco"),
    "task.init_checkpoint=null,task.model.backbone.type=mobilenet_v2,"
    "task.model.backbone.mobilenet_v2.width_multiplier=0.5",
    is_strict=True,
  )
  assert params.task.init_checkpoint is None
  assert params.task.model.backbone.get().width_multiplier == 0.5


@pytest.fixture(scope="module")
def classification_checkpoint(tmp_path_factory):
  """A trained-looking classification backbone: its values and its checkpoint."""
  backbone = mobilenet_v2.MobileNetV2(width_multiplier=WIDTH)
  rng = np.random.default_rng(0)
  # Positive steps keep the moving variances above zero.
  backbone.set_weights(
    [value + 0.01 * rng.random(value.shape) for value in backbone.get_weights()]
  )
  path = tf.train.Checkpoint(backbone=backbone).write(
    str(tmp_path_factory.mktemp("classification") / "ckpt")
  )
  return backbone.get_weights(), path


def assert_equal_weights(backbone: keras.Model, expected: list[np.ndarray]) -> None:
  """Every variable, batch statistics included, bit for bit."""
  assert len(backbone.weights) == len(expected)
  for variable, value in zip(backbone.weights, expected, strict=True):
    np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.name)


def start(
  name: str, directory: Path, checkpoint: tuple[list[np.ndarray], str], overrides: Any
) -> tuple[Any, Any]:
  """Starts a task from a classification checkpoint; returns the task and its model."""
  values, path = checkpoint
  task = load_task(name, directory, {"init_checkpoint": path, **overrides})
  model = task.build_model()
  task.initialize(model)
  assert_equal_weights(model.backbone, values)
  return task, model


def test_mask_rcnn_starts_from_a_classification_checkpoint(
  tmp_path, classification_checkpoint
):
  """The others' start is checked where they take a step."""
  start("maskrcnn", tmp_path, classification_checkpoint, {})


def train_once(
  name: str, directory: Path, checkpoint: tuple[list[np.ndarray], str], overrides: Any
) -> Any:
  """Takes one step from the initial checkpoint; returns the model."""
  task, model = start(name, directory, checkpoint, overrides)
  head_before = [variable.numpy() for variable in model.head.trainable_variables]
  batch = next(iter(task.build_inputs(task.task_config.train_data)))
  task.train_step(batch, model, keras.optimizers.legacy.SGD(0.01))
  head_after = [variable.numpy() for variable in model.head.trainable_variables]
  assert any(map(np.any, map(np.not_equal, head_before, head_after)))
  return model


@pytest.mark.parametrize(
  ("name", "frozen"),
  [
    ("retinanet", {"freeze_backbone": True}),
    (
      "semantic_segmentation",
      {"model": {"backbone": {"mobilenet_v2": {"trainable": False}}}},
    ),
  ],
)
def test_frozen_backbone_stays_as_it_was_loaded(
  name, frozen, tmp_path, classification_checkpoint
):
  model = train_once(name, tmp_path, classification_checkpoint, frozen)
  assert_equal_weights(model.backbone, classification_checkpoint[0])


def test_backbone_learns_unless_frozen(tmp_path, classification_checkpoint):
  values, _ = classification_checkpoint
  by_gradient_alone = {"losses": {"l2_weight_decay": 0.0}}
  model = train_once(
    "retinanet", tmp_path, classification_checkpoint, by_gradient_alone
  )
  moved = {
    variable.name
    for variable, before in zip(model.backbone.weights, values, strict=True)
    if np.any(variable.numpy() != before)
  }
  # The last convolution serves classification; the head reads levels 3 to 5.
  kernels = {v.name for v in model.backbone.weights if "kernel" in v.name}
  assert kernels - moved == {"Conv_1/kernel:0"}


@pytest.mark.parametrize("family", ["nasnet", "pnasnet"])
def test_retinanet_trains_two_steps_over_nasnet(family, tmp_path):
  small = {"num_cells": 3, "num_conv_filters": 8, "drop_path_keep_prob": 0.9}
  overrides = {
    "losses": {"l2_weight_decay": 0.0},  # by gradient alone
    "model": {"backbone": {"type": family, family: small}},
  }
  task = load_task("retinanet", tmp_path, overrides)
  model = task.build_model()
  assert model.backbone.output_specs.keys() == {"2", "3", "4", "5"}
  before = {v.name: v.numpy() for v in model.backbone.trainable_variables}
  optimizer = keras.optimizers.legacy.SGD(0.01)
  batches = iter(task.build_inputs(task.task_config.train_data))
  losses = [
    float(task.train_step(next(batches), model, optimizer)["loss"])
    for _ in range(STEPS)
  ]
  assert np.isfinite(losses).all()
  kernels = [v for v in model.backbone.trainable_variables if "kernel" in v.name]
  assert all(np.any(before[v.name] != v.numpy()) for v in kernels)
