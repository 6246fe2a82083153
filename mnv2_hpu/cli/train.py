r"""Trains or evaluates an experiment through Model Garden's own driver.

Example, on the digits that `make quickstart` prepares:

  mnv2-train --experiment=mobilenet_v2_classification --gin_file=gin/digits.gin \
    --mode=train_and_eval --model_dir=build/digits

`--dry_run` prints every resolved value and where it came from.
"""

from collections.abc import Sequence

from mnv2_hpu.cli import process

process.set_up()

from absl import flags  # noqa: E402
from official.common import flags as tfm_flags  # noqa: E402
from official.vision import train  # noqa: E402

import mnv2_hpu  # noqa: E402
from mnv2_hpu.cli import main as cli_main  # noqa: E402
from mnv2_hpu.core import resolve  # noqa: E402
from mnv2_hpu.errors import UserError  # noqa: E402

DRIVER_FLAGS = (
  "experiment",
  "mode",
  "model_dir",
  "gin_file",
  "gin_params",
  "config_file",
  "params_override",
)

_DRY_RUN = flags.DEFINE_bool(
  "dry_run", False, "Print the resolved experiment, each value's source, and stop."
)


def main(argv: Sequence[str]) -> int:
  """Runs the driver, or prints what it would run."""
  if _DRY_RUN.value:
    print(resolve.describe(resolve.resolve(flags.FLAGS)))
    return 0
  if not flags.FLAGS.model_dir:
    raise UserError("--model_dir is missing: the folder for checkpoints and logs.")
  train.main(argv)
  return 0


def entry_point() -> None:
  """The console script `mnv2-train`."""
  mnv2_hpu.register()
  tfm_flags.define_flags()
  flags.FLAGS.set_default("experiment", "mobilenet_v2_classification")
  flags.FLAGS.set_default("mode", "train_and_eval")
  cli_main.run(main, show_flags=DRIVER_FLAGS)


if __name__ == "__main__":
  entry_point()
