"""Turns a checkpoint of slim's MobileNetV2 (TensorFlow 1) into one to train from.

Example, with the files that slim publishes for width 1.0:

  mnv2-import-checkpoint --checkpoint=mobilenet_v2_1.0_224.ckpt --output_dir=imported

Width, fine-grained mode and number of classes are inferred from the checkpoint. What is
written serves as `task.init_checkpoint` of any experiment over the backbone
mobilenet_v2: with `init_checkpoint_modules` `backbone`, or `all` where the checkpoint
has a logits layer. import.json beside it says how images and labels must be prepared.
"""

from collections.abc import Sequence

from absl import flags

from mnv2_hpu.cli import command
from mnv2_hpu.cli.path_flags import define_path


def define_flags() -> None:
  """Defines the flags."""
  define_path(
    "checkpoint",
    None,
    "Prefix of slim's files, or their folder.",
    required=True,
    remote=True,
  )
  define_path(
    "output_dir",
    None,
    "Folder to write; there must be none yet.",
    required=True,
    written=True,
  )
  flags.DEFINE_enum("weights", "ema", ["ema", "raw"], "EMA weights, or the raw ones.")
  flags.DEFINE_float(
    "width_multiplier", None, "Width that the checkpoint must have; inferred from it."
  )
  flags.DEFINE_integer(
    "num_classes", None, "Classes that the checkpoint must have; inferred from it."
  )


def main(argv: Sequence[str]) -> int:
  """Imports the checkpoint that the flags name and prints what it is."""
  del argv
  from mnv2_hpu.checkpoints import import_slim

  values = flags.FLAGS
  imported = import_slim.import_checkpoint(
    values.checkpoint,
    values.output_dir,
    weights=values.weights,
    width_multiplier=values.width_multiplier,
    num_classes=values.num_classes,
  )
  print(imported.summary())
  return 0


def entry_point() -> None:
  """The console script `mnv2-import-checkpoint`."""
  command.run(main, define_flags)


if __name__ == "__main__":
  entry_point()
