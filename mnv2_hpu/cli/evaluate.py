"""Evaluates the EMA weights of a training run: once, or each new checkpoint.

Example, the run of `make quickstart`:

  mnv2-evaluate --model_dir=build/quickstart/model

As a sidecar of a training, started before, with or after it, until it has ended:

  mnv2-evaluate --model_dir=build/quickstart/model --continuous
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
  flags.DEFINE_bool(
    "continuous", False, "Evaluate each new checkpoint until the training has ended."
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


def main(argv: Sequence[str]) -> int:
  """Prints the metrics of the newest checkpoint, or of each that comes."""
  del argv
  values = flags.FLAGS
  mnv2_hpu.register()
  from mnv2_hpu.evaluation import evaluator

  if values.continuous:
    text = evaluator.evaluate_continuously(
      values.model_dir, values.timeout, values.distribution_strategy
    )
  else:
    text = evaluator.evaluate(values.model_dir, values.distribution_strategy)
  print(text)
  return 0


def entry_point() -> None:
  """The console script `mnv2-evaluate`."""
  command.run(main, define_flags)


if __name__ == "__main__":
  entry_point()
