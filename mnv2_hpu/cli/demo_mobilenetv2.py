r"""Trains or evaluates MobileNetV2 by the flags of Habana's slim launcher.

On ImageNet, on a Gaudi device if there is one, else a GPU, else the CPU:

  mnv2-demo-mobilenetv2 --dataset_dir=data/imagenet --dtype=bf16

On eight devices, and the evaluation afterwards:

  mpirun -np 8 mnv2-demo-mobilenetv2 --dataset_dir=data/imagenet --dtype=bf16
  mnv2-demo-mobilenetv2 --dataset_dir=data/imagenet --computation_type=validation

On the digits that `make quickstart` prepares, 20 steps on the CPU:

  mnv2-demo-mobilenetv2 --dataset_dir=build/quickstart/tfrecords --device=cpu \
    --gin_file=gin/digits.gin --model_dir=build/demo --max_number_of_steps=20

The recipe is `gin/imagenet.gin`; a flag that is not given leaves its value. The number
of workers is that of the launcher. `--dry_run` prints every resolved value.
"""

from collections.abc import Sequence

from absl import flags

from mnv2_hpu.cli import command, train
from mnv2_hpu.cli.legacy import slim_flags

DRIVER_FLAGS = ("model_dir", "gin_file", "gin_params", "dry_run")


def define_flags() -> None:
  """Defines the flags: those of slim's launcher, and the driver's."""
  train.define_flags()
  flags.FLAGS.set_default("model_dir", "runs/demo_mobilenetv2")
  slim_flags.define()


def main(argv: Sequence[str]) -> int:
  """Runs the driver with what the flags mean."""
  slim_flags.set_driver_flags()
  return train.main(argv)


def entry_point() -> None:
  """The console script `mnv2-demo-mobilenetv2`."""
  command.run(main, define_flags, show_flags=(*slim_flags.NAMES, *DRIVER_FLAGS))


if __name__ == "__main__":
  entry_point()
