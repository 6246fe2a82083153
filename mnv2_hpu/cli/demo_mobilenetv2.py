r"""Trains or evaluates MobileNetV2 by the flags of Habana's slim launcher.

On ImageNet, on a Gaudi card if there is one, else a GPU, else the CPU:

  mnv2-demo-mobilenetv2 --dataset_dir=data/imagenet --dtype=bf16

On eight cards, and the evaluation afterwards:

  mpirun -np 8 mnv2-demo-mobilenetv2 --dataset_dir=data/imagenet --dtype=bf16
  mnv2-demo-mobilenetv2 --dataset_dir=data/imagenet --computation_type=validation

On the digits that `make quickstart` prepares, 20 steps on the CPU:

  mnv2-demo-mobilenetv2 --dataset_dir=build/quickstart/tfrecords --device=cpu \
    --gin_file=gin/digits.gin --model_dir=build/demo --max_number_of_steps=20

The recipe is `gin/imagenet.gin`; a flag that is not given leaves its value. The number
of workers is that of the launcher. `--dry_run` prints every resolved value.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mnv2_hpu.cli import process

process.set_up()

import tensorflow as tf  # noqa: E402
from absl import flags  # noqa: E402
from official.common import flags as tfm_flags  # noqa: E402

import mnv2_hpu  # noqa: E402
from mnv2_hpu import cluster  # noqa: E402
from mnv2_hpu.cli import main as cli_main  # noqa: E402
from mnv2_hpu.cli import seed_flags, train  # noqa: E402
from mnv2_hpu.distribute import habana  # noqa: E402
from mnv2_hpu.errors import UserError  # noqa: E402

DRIVER_FLAGS = ("model_dir", "gin_file", "gin_params", "dry_run")

_DEVICE = flags.DEFINE_enum(
  "device", None, seed_flags.DEVICES, "Where to compute; by default the best there is."
)
_DATASET_DIR = flags.DEFINE_string(
  "dataset_dir", None, "Folder of the TFRecords train-* and validation-*."
)
_COMPUTATION_TYPE = flags.DEFINE_enum(
  "computation_type", "train", ["train", "validation"], "What to do."
)
seed_flags.define()


def _best_device() -> str:
  if habana.card_is_present():
    return "hpu"
  return "gpu" if tf.config.list_physical_devices("GPU") else "cpu"


def _values() -> Mapping[str, Any]:
  """The seed's flags that were given, by name."""
  return {
    name: flags.FLAGS[name].value
    for name in seed_flags.NAMES
    if flags.FLAGS[name].present
  }


def main(argv: Sequence[str]) -> int:
  """Runs the driver with what the flags mean."""
  if not _DATASET_DIR.value:
    raise UserError(
      "--dataset_dir is missing: the folder of the TFRecords train-* and validation-*. "
      "mnv2-prepare-data makes them; `make quickstart` makes those of the digits."
    )
  values, settings = _values(), flags.FLAGS
  device = _DEVICE.value or ("cpu" if values.get("clone_on_cpu") else _best_device())
  meaning = seed_flags.translate(
    values, device, cluster.world_size(os.environ), cluster.rank(os.environ)
  )
  print(f"device {device}: {', '.join(meaning.gin_params)}")
  settings.model_dir = values.get("train_dir", settings.model_dir)
  settings.mode = "train" if _COMPUTATION_TYPE.value == "train" else "eval"
  settings.gin_file = settings.gin_file or ["gin/imagenet.gin"]
  settings.gin_params = [
    f"DATA_DIR = {_DATASET_DIR.value!r}",
    *meaning.gin_params,
    *(settings.gin_params or []),
  ]
  settings.params_override = ",".join(
    filter(None, [*meaning.overrides, settings.params_override])
  )
  return train.main(argv)


def entry_point() -> None:
  """The console script `mnv2-demo-mobilenetv2`."""
  mnv2_hpu.register()
  tfm_flags.define_flags()
  flags.FLAGS.set_default("experiment", "mobilenet_v2_classification")
  flags.FLAGS.set_default("model_dir", "runs/demo_mobilenetv2")
  cli_main.run(main, show_flags=(*seed_flags.NAMES, *DRIVER_FLAGS))


if __name__ == "__main__":
  entry_point()
