"""Turns weights that others have trained into a folder to train and predict from.

Example, with files as slim publishes them, and a folder as Hugging Face's hub has it:

  mnv2-import-checkpoint --checkpoint=mobilenet_v2_1.0_224.ckpt --output_dir=imported
  mnv2-import-checkpoint --checkpoint=mobilenet_v2_1.0_224 --output_dir=imported

Read are checkpoints of TensorFlow 1 (slim's, research/deeplab's, SSDLite of the Object
Detection API), files of Keras Applications (.h5, .keras), and safetensors of Hugging
Face (segmenters too), timm and torchvision: which one, the content says. The folder
serves mnv2-predict, mnv2-evaluate and mnv2-export as a run does; fine_tune.gin in it
trains from the weights; import.json says what they expect.
"""

from collections.abc import Sequence

from absl import flags

import mnv2_hpu
from mnv2_hpu.cli import command
from mnv2_hpu.cli.path_flags import define_path


def define_flags() -> None:
  """Defines the flags."""
  define_path(
    "checkpoint",
    None,
    "A file of weights, the prefix of slim's files, or a folder of either.",
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
  flags.DEFINE_enum(
    "weights", "ema", ["ema", "raw"], "Of slim's and the API's: EMA or raw."
  )
  flags.DEFINE_float(
    "width_multiplier", None, "Width that the checkpoint must have; inferred from it."
  )
  flags.DEFINE_integer(
    "num_classes", None, "Classes that the checkpoint must have; inferred from it."
  )


def main(argv: Sequence[str]) -> int:
  """Imports the checkpoint that the flags name and prints what it is."""
  del argv
  mnv2_hpu.register()
  from mnv2_hpu.core.imported import run as imported_run

  values = flags.FLAGS
  imported = imported_run.import_checkpoint(
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
