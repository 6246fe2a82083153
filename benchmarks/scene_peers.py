r"""SSDLite and DeepLabv3+ beside Model Garden's: same data, backbone, time.

  make quickstart-detection && .venv/bin/python benchmarks/scene_peers.py
  make quickstart-segmentation && \
    .venv/bin/python benchmarks/scene_peers.py --task=segmentation

Both networks train on the scenes of the quickstart, one after the other, through the
stock driver, from nothing. This project's has the quickstart's schedule; the stock one
as many steps as fit into the same seconds, at a rate measured first, under the same
optimizer. Prints a row for each: metric, steps, images/s, size.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import tensorflow as tf
import yaml
from absl import app, flags

from mnv2_hpu import quickstart, tf_environment
from mnv2_hpu.configs import gin_files
from mnv2_hpu.reporting import curves

_TASK = flags.DEFINE_enum("task", "detection", ["detection", "segmentation"], "Which.")
_RECORDS = flags.DEFINE_string("records", "", "TFRecords, if not the quickstart's.")
_RATE_STEPS = 60  # steps that measure the rate; half of them are start-up
_BATCH = 12

_CLASSES = 11
_NORM = {"use_sync_bn": False, "norm_momentum": 0.95}
_WIDTH = {"backbone": {"mobilenet_v2": {"width_multiplier": 0.35}}}
# Experiment, overlay of gin/swap, task, metric that both log.
_PEERS = {
  "detection": (
    "retinanet_resnetfpn_coco",
    "swap/retinanet.yaml",
    {
      "annotation_file": None,
      "model": {
        "num_classes": _CLASSES,
        "input_size": [192, 192, 3],
        "max_level": 6,  # 7 would need 256 pixels
        "norm_activation": _NORM,
        **_WIDTH,
      },
      "train_data": {"parser": {"aug_rand_hflip": False, "max_num_instances": 16}},
      "validation_data": {"parser": {"max_num_instances": 16}},
    },
    "AP50",
  ),
  "segmentation": (
    "mnv2_deeplabv3_pascal",
    "swap/semantic_segmentation.yaml",
    {
      "model": {"num_classes": _CLASSES, "norm_activation": _NORM, **_WIDTH},
      "train_data": {
        "output_size": [192, 192],
        "aug_rand_hflip": False,
        "aug_scale_min": 1.0,
        "aug_scale_max": 1.0,
      },
      "validation_data": {
        "output_size": [192, 192],
        "groundtruth_padded_size": [192, 192],
      },
    },
    "mean_iou",
  ),
}


def main(argv):
  """Trains both networks, and prints what they reached."""
  del argv
  ours = quickstart.QUICKSTARTS[_TASK.value]
  records = _RECORDS.value or os.path.join(ours.output_dir, "tfrecords")
  with tempfile.TemporaryDirectory() as folder:
    runs = {"this project": Path(folder) / "ours", "Model Garden": Path(folder) / "mg"}
    _driver(
      runs["this project"],
      f"--experiment={ours.experiment}",
      f"--gin_file={gin_files.path(ours.gin_file)}",
      f"--gin_params=DATA_DIR = '{records}'",
    )
    seconds = _steps(runs["this project"]) / _rate(runs["this project"])
    rate = _train_peer(records, _RATE_STEPS, Path(folder) / "rate")
    _train_peer(records, int(seconds * rate), runs["Model Garden"])
    print(f"{_TASK.value}: {seconds:.0f} seconds of training steps each")
    *_, metric = _PEERS[_TASK.value]
    for name, model_dir in runs.items():
      (*_, (_, value)) = curves.read(str(model_dir)).validation[metric]
      print(
        f"{name:<14} {metric} {value:.3f}, {_steps(model_dir):,} steps, "
        f"{_rate(model_dir) * _BATCH:.0f} images/s, {_megabytes(model_dir):.1f} MB"
      )


def _steps(model_dir):
  (*_, (step, _)) = curves.read(str(model_dir)).train["training_loss"]
  return step


def _megabytes(model_dir):
  """Returns the size of a network in its checkpoint, moving statistics included."""
  reader = tf.train.load_checkpoint(str(model_dir))
  shapes = reader.get_variable_to_shape_map()
  return (
    sum(
      4 * math.prod(shape)
      for name, shape in shapes.items()
      if name.startswith(("model/", "backbone/", "decoder/", "head/"))
      and "OPTIMIZER_SLOT" not in name
    )
    / 1e6
  )


def _driver(model_dir, *arguments):
  subprocess.run(
    [
      *(sys.executable, "-m", "official.vision.train", *arguments),
      *("--mode=train_and_eval", f"--model_dir={model_dir}"),
    ],
    env=tf_environment.with_defaults(os.environ),
    check=True,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )


def _train_peer(records, steps, model_dir):
  """Trains the stock network; returns its steps per second, start-up left out."""
  experiment, overlay, task, _ = _PEERS[_TASK.value]
  info = json.loads((Path(records) / "dataset.json").read_text())
  held_out = info["splits"]["validation"]["num_examples"]
  data = {"global_batch_size": _BATCH, "dtype": "float32"}
  task = {
    **task,
    "train_data": {**data, **task["train_data"], "input_path": f"{records}/train-*"},
    "validation_data": {
      **data,
      **task["validation_data"],
      "input_path": f"{records}/validation-*",
    },
  }
  trainer = {
    "train_steps": steps,
    "steps_per_loop": max(1, steps // 10),
    "summary_interval": max(1, steps // 10),
    "checkpoint_interval": steps,
    "validation_interval": steps,
    "validation_steps": held_out // _BATCH,
    "optimizer_config": _optimizer(steps),
  }
  config = model_dir.with_suffix(".yaml")
  config.write_text(
    yaml.safe_dump(
      {
        "runtime": {
          "distribution_strategy": "one_device",
          "mixed_precision_dtype": "float32",
        },
        "task": task,
        "trainer": trainer,
      }
    )
  )
  _driver(
    model_dir,
    f"--experiment={experiment}",
    f"--gin_file={gin_files.path('plugin.gin')}",
    f"--config_file={gin_files.path(overlay)}",
    f"--config_file={config}",
  )
  return _rate(model_dir)


def _rate(model_dir):
  """Returns the steps per second of a run, its start-up left out."""
  rates = [rate for _, rate in curves.read(str(model_dir)).train["steps_per_second"]]
  return statistics.median(rates)


def _optimizer(steps):
  return {
    "optimizer": {
      "type": "rmsprop",
      "rmsprop": {"rho": 0.9, "momentum": 0.9, "epsilon": 0.002},
    },
    "learning_rate": {
      "type": "polynomial",
      "polynomial": {
        "initial_learning_rate": 0.004,
        "end_learning_rate": 1e-5,
        "decay_steps": steps,
        "power": 1.0,
      },
    },
    "warmup": {"type": "linear", "linear": {"warmup_steps": steps // 10}},
    "ema": {"average_decay": 0.98},
  }


if __name__ == "__main__":
  app.run(main)
