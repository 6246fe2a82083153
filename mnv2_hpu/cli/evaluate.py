"""Evaluates a training run: one checkpoint on every image, or each new checkpoint.

Example, the run of `make quickstart`; the second writes a page and CSV of the classes:

  mnv2-evaluate --model_dir=build/quickstart/model
  mnv2-evaluate --model_dir=build/quickstart/model --weights=raw --output_dir=build/eval

As a sidecar of a training, started before, with or after it, until it has ended:

  mnv2-evaluate --model_dir=build/quickstart/model --continuous
"""

from collections.abc import Sequence

from absl import flags

import mnv2_hpu
from mnv2_hpu.cli import command
from mnv2_hpu.cli.path_flags import define_path

_ONCE = ("checkpoint", "weights", "input_path", "output_dir")


def define_flags() -> None:
  """Defines the flags."""
  define_path(
    "model_dir", None, "Folder of the run; that of --checkpoint.", remote=True
  )
  define_path("checkpoint", None, "Checkpoint, or a folder: its newest.", remote=True)
  flags.DEFINE_enum("weights", None, ["ema", "raw"], "EMA weights if there are any.")
  define_path("input_path", None, "TFRecords; the validation files'.", remote=True)
  define_path(
    "output_dir", None, "For metrics.json, per_class.csv, report.html.", written=True
  )
  flags.DEFINE_bool(
    "continuous", None, "Evaluate each new checkpoint until the training has ended."
  )
  flags.DEFINE_integer(
    "timeout",
    3600,
    "Seconds that --continuous waits for the run, and for each checkpoint.",
    lower_bound=0,
  )
  flags.DEFINE_string(
    "distribution_strategy",
    None,
    "Where to evaluate. If not given, as the training did; with --continuous on one "
    "device that is no HPU, since the training holds those.",
  )
  for name in _ONCE:
    flags.mark_flags_as_mutual_exclusive(["continuous", name])


def main(argv: Sequence[str]) -> int:
  """Prints the metrics of one checkpoint, or of each that comes."""
  del argv
  values = flags.FLAGS
  mnv2_hpu.register()
  from mnv2_hpu.evaluation import evaluator

  strategy = values.distribution_strategy
  if values.continuous:
    text = evaluator.evaluate_continuously(values.model_dir, values.timeout, strategy)
  else:
    once = {name: values[name].value for name in _ONCE}
    text = evaluator.evaluate(values.model_dir, distribution_strategy=strategy, **once)
  print(text)
  return 0


def entry_point() -> None:
  """The console script `mnv2-evaluate`."""
  command.run(main, define_flags)


if __name__ == "__main__":
  entry_point()
