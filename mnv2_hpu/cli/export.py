r"""Exports a trained model in every format, and checks it on held-out images.

Examples, of `make quickstart`:
  mnv2-export --model_dir=build/quickstart/model --export_dir=build/export
  mnv2-export --model_dir=build/quickstart/model --export_dir=build/int8 \\
    --formats=tflite_int8,tflite_dynamic,tflite_float16

Models are reloaded in a fresh process and run over the validation files: an accuracy
that is not the checkpoint's is an error.
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
  flags.DEFINE_enum("weights", None, ["ema", "raw"], "EMA weights if there are any.")
  flags.DEFINE_list(
    "formats",
    None,
    "saved_model, tflite (these by default; of int8 runs tflite_int8), tflite_float16, "
    "tflite_dynamic, tflite_int8, onnx; huggingface, keras, timm, torchvision.",
  )
  flags.DEFINE_enum(
    "inference_type", "float32", ["float32", "uint8", "int8"], "Of tflite_int8."
  )
  flags.DEFINE_integer(
    "calibration_images", 200, "Training images for tflite_int8.", lower_bound=0
  )
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
    inference_type=values.inference_type,
    calibration_images=values.calibration_images,
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
