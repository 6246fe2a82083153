r"""Trains or evaluates an experiment through Model Garden's own driver.

Example, on the digits that `make quickstart` prepares:

  mnv2-train --experiment=mobilenet_v2_classification --gin_file=gin/digits.gin \
    --mode=train_and_eval --model_dir=build/digits

`--dry_run` prints every resolved value and the file or flag that set it. What Model
Garden and TensorFlow log is in train.log of the model folder; --verbosity=0 shows it.
"""

import os
from collections.abc import Sequence

from absl import flags
from official.common import flags as tfm_flags

import mnv2_hpu
from mnv2_hpu import cluster, log_filters
from mnv2_hpu.cli import command
from mnv2_hpu.cli.path_flags import PathParser
from mnv2_hpu.errors import UserError

SHOWN_FLAGS = (
  "dry_run",
  "experiment",
  "mode",
  "model_dir",
  "gin_file",
  "gin_params",
  "config_file",
  "params_override",
  "profile_steps",
)


def define_flags() -> None:
  """Defines the flags: Model Garden's, with defaults, and `--dry_run`."""
  tfm_flags.define_flags()
  for name in ("model_dir", "gin_file", "config_file"):
    flags.FLAGS[name].parser = PathParser(remote=True, written=False)
  flags.FLAGS.set_default("experiment", "mobilenet_v2_classification")
  flags.FLAGS.set_default("mode", "train_and_eval")
  flags.DEFINE_bool(
    "enable_async_checkpointing", True, "Model Garden's own.", allow_override=True
  )
  flags.DEFINE_list("profile_steps", None, "Trace steps FIRST,LAST for TensorBoard.")
  flags.DEFINE_bool(
    "dry_run", False, "Print the resolved experiment, each value's source, and stop."
  )


def main(argv: Sequence[str]) -> int:
  """Runs the driver, or prints what it would run."""
  if not (flags.FLAGS.model_dir or flags.FLAGS.dry_run):
    raise UserError("--model_dir is missing: the folder for checkpoints and logs.")
  mnv2_hpu.register()
  if flags.FLAGS.dry_run:
    from mnv2_hpu.core import resolve

    print(resolve.describe(resolve.resolve(flags.FLAGS)))
    return 0
  is_quiet = "://" not in flags.FLAGS.model_dir and not flags.FLAGS["verbosity"].present
  if is_quiet and cluster.rank(os.environ) == 0:
    log_filters.move_details_to(os.path.join(flags.FLAGS.model_dir, "train.log"))
  given = flags.FLAGS.enable_async_checkpointing
  from official.vision import train  # defines that flag again

  flags.FLAGS.enable_async_checkpointing = given
  train.main(argv)
  return 0


def entry_point() -> None:
  """The console script `mnv2-train`."""
  command.run(main, define_flags, show_flags=SHOWN_FLAGS)


if __name__ == "__main__":
  entry_point()
