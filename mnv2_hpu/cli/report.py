r"""Writes metrics.json and report.html of a training run and its export.

Example, the run of `make quickstart`:

  mnv2-report --model_dir=build/quickstart/model \
    --export_dir=build/quickstart/export --output_dir=build/report

The report shows learning curves, the confusion matrix and held-out images with their
predictions; it opens without a network. Of a detector or a segmenter the exported
checkpoint is evaluated again, and shown as mnv2-evaluate shows it.
"""

from collections.abc import Sequence

from absl import flags

import mnv2_hpu
from mnv2_hpu.cli import command
from mnv2_hpu.cli.path_flags import define_path


def define_flags() -> None:
  """Defines the flags."""
  define_path("model_dir", None, "Folder of the run.", required=True)
  define_path("export_dir", None, "Folder of its export, checked.", required=True)
  define_path("output_dir", None, "Folder to write.", required=True, written=True)
  define_path(
    "figure_path", None, "PNG file of curves and predictions to write besides."
  )


def main(argv: Sequence[str]) -> int:
  """Writes both files, and the figure if requested."""
  del argv
  values = flags.FLAGS
  mnv2_hpu.register()
  from mnv2_hpu.evaluation import run_report

  written = run_report.write_run_report(
    values.model_dir, values.export_dir, values.output_dir, values.figure_path
  )
  print(f"wrote {', '.join(written)}")
  return 0


def entry_point() -> None:
  """The console script `mnv2-report`."""
  command.run(main, define_flags)


if __name__ == "__main__":
  entry_point()
