r"""Predicts the classes of image files: the three likeliest, with their probabilities.

A detector finds objects instead: class, score, and box in pixels of the image (ymin,
xmin, ymax, xmax); the contact sheet shows them drawn. A segmenter finds the class of
each pixel: the fraction of each, and with --output_dir masks (PNG, a pixel's value is
its label) and the images in the colors of their classes.

Example, the model of `make quickstart`:

  mnv2-predict --model=build/quickstart/saved_model build/quickstart/images/validation

--model is a SavedModel, a .tflite or .onnx file or a whole folder that mnv2-export
wrote, the folder of a training run, or one of its checkpoints. Images are files,
folders or patterns. A file that is no image is reported; the exit code is then 1.
"""

from collections.abc import Sequence

from absl import flags

import mnv2_hpu
from mnv2_hpu.cli import command
from mnv2_hpu.cli.path_flags import define_path


def define_flags() -> None:
  """Defines the flags."""
  define_path("model", None, "A run, an export, or a model of it.", required=True)
  flags.DEFINE_enum(
    "format", "table", ["table", "jsonl", "csv"], "How predictions are printed."
  )
  define_path("contact_sheet", None, "PNG file to write, of the images with classes.")
  define_path("output_dir", None, "Folder for a segmenter's masks.", written=True)
  flags.DEFINE_float("min_score", 0.3, "Of a detector: score from which boxes count.")


def main(argv: Sequence[str]) -> int:
  """Prints a line for each image."""
  values = flags.FLAGS
  mnv2_hpu.register()
  from mnv2_hpu.evaluation import prediction_output

  return prediction_output.predict(
    values.model,
    argv[1:],
    values.format,
    values.contact_sheet,
    values.min_score,
    values.output_dir,
  )


def entry_point() -> None:
  """The console script `mnv2-predict`."""
  command.run(main, define_flags, takes_arguments=True)


if __name__ == "__main__":
  entry_point()
