"""Exports a trained model as SavedModel and TFLite, and checks both on held-out images.

Example, the run of `make quickstart`:

  mnv2-export --model_dir=build/quickstart/model --export_dir=build/export

What is exported is what was evaluated: the EMA weights, with the preprocessing of
the run inside. Both are then reloaded in a fresh process and run over the validation
files; the command fails where their accuracy is not that of the run's own evaluation.
"""

from collections.abc import Sequence

from absl import flags

import mnv2_hpu
from mnv2_hpu.cli import command
from mnv2_hpu.cli.path_flags import define_path


def define_flags() -> None:
  """Defines the flags."""
  define_path(
    "model_dir", None, "Folder of the training run.", required=True, remote=True
  )
  define_path("export_dir", None, "Folder to write to.", required=True, written=True)
  define_path(
    "checkpoint", None, "A checkpoint of the run; its newest if not given.", remote=True
  )
  flags.DEFINE_enum("weights", "ema", ["ema", "raw"], "EMA weights, or the raw ones.")
  flags.DEFINE_list("formats", None, "saved_model, tflite; both if not given.")
  flags.DEFINE_bool("check", True, "Check the export on the validation files.")
  define_path(
    "validation_files",
    None,
    "Pattern of TFRecords for the check; the run's own if not given.",
    remote=True,
  )


def main(argv: Sequence[str]) -> int:
  """Exports and checks."""
  del argv
  values = flags.FLAGS
  mnv2_hpu.register()
  from mnv2_hpu.evaluation import checked_export

  text = checked_export.export_run(
    values.model_dir,
    values.export_dir,
    checkpoint=values.checkpoint,
    weights=values.weights,
    formats=values.formats,
    check=values.check,
    validation_files=values.validation_files,
  )
  print(text)
  return 0


def entry_point() -> None:
  """The console script `mnv2-export`."""
  command.run(main, define_flags)


if __name__ == "__main__":
  entry_point()
