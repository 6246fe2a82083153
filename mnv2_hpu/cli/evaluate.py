"""Evaluates the EMA weights of a training run: once, or each new checkpoint.

Example, the run of `make quickstart`:

  mnv2-evaluate --model_dir=build/quickstart/model

As a sidecar of a running training, until it has ended:

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
    "timeout", 3600, "Seconds that --continuous waits for a checkpoint."
  )
  flags.DEFINE_string(
    "distribution_strategy",
    None,
    "Where to evaluate; as the training did if not given.",
  )


def main(argv: Sequence[str]) -> int:
  """Prints the metrics of the newest checkpoint, or of each that comes."""
  del argv
  values = flags.FLAGS
  mnv2_hpu.register()
  from mnv2_hpu.evaluation import evaluator

  text = evaluator.evaluate(
    values.model_dir,
    continuous=values.continuous,
    timeout=values.timeout,
    distribution_strategy=values.distribution_strategy,
  )
  print(text, end="\n" if text else "")
  return 0


def entry_point() -> None:
  """The console script `mnv2-evaluate`."""
  command.run(main, define_flags)


if __name__ == "__main__":
  entry_point()
