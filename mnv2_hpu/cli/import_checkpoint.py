"""Turns a checkpoint of slim's MobileNetV2 (TensorFlow 1) into one to train from.

Example, with the files that slim publishes for width 1.0:

  mnv2-import-checkpoint --checkpoint=mobilenet_v2_1.0_224.ckpt --output_dir=imported

Width, fine-grained mode and number of classes are inferred from the checkpoint. What is
written serves as `task.init_checkpoint` of any experiment over the backbone
mobilenet_v2: with `init_checkpoint_modules` `backbone`, or `all` where the checkpoint
has a logits layer. import.json beside it says how images and labels must be prepared.
"""

from collections.abc import Sequence

from mnv2_hpu.cli import process

process.set_up()

from absl import flags  # noqa: E402

import mnv2_hpu  # noqa: E402
from mnv2_hpu.checkpoints import import_slim, restore  # noqa: E402
from mnv2_hpu.cli import main as cli_main  # noqa: E402


def define_flags() -> None:
  """Defines the flags."""
  flags.DEFINE_string(
    "checkpoint", None, "Prefix of slim's files, or their folder.", required=True
  )
  flags.DEFINE_string(
    "output_dir", None, "Folder to write; there must be none yet.", required=True
  )
  flags.DEFINE_enum(
    "weights", "ema", restore.WEIGHTS, "The EMA weights, or the raw ones."
  )
  flags.DEFINE_float(
    "width_multiplier", None, "Width it must have; inferred if not given."
  )
  flags.DEFINE_integer(
    "num_classes", None, "Classes it must have; inferred if not given."
  )


def main(argv: Sequence[str]) -> int:
  """Imports the checkpoint that the flags name and prints what it is."""
  del argv
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
  mnv2_hpu.register()
  define_flags()
  cli_main.run(main)


if __name__ == "__main__":
  entry_point()
