r"""Starts the processes of a training, and starts all of them again when one dies.

Examples:
  mnv2-launch --max_restarts=3 -- mnv2-train --gin_file=gin/imagenet.gin --model_dir=run
  mnv2-launch --max_restarts=3 -- horovodrun -np 8 mnv2-train --model_dir=run …
  mnv2-launch --stop_signal=SIGUSR1 -- mpirun -np 8 mnv2-train --model_dir=run …
  mnv2-launch --np=2 --max_restarts=3 -- mnv2-train --model_dir=run …

With --np the command is started so many times on this machine, each with its TF_CONFIG
and, without accelerators, cores of its own (auto: one for each accelerator, or one);
another launcher (horovodrun, mpirun) is started once. A training goes on from its last
checkpoint. SIGTERM is handed on (as --stop_signal), waited for, and not followed by a
restart; the command gets that signal too where this launcher is killed.
"""

import signal
from collections.abc import Sequence

from absl import flags

from mnv2_hpu.cli import command
from mnv2_hpu.distribute import launcher
from mnv2_hpu.errors import UserError


def define_flags() -> None:
  """Defines the flags."""
  flags.DEFINE_string(
    "np", "0", "Processes here, with TF_CONFIG; 0 starts one; auto chooses."
  )
  flags.DEFINE_integer(
    "max_restarts", 0, "How often to start all again.", lower_bound=0
  )
  flags.DEFINE_float(
    "grace_seconds", 35.0, "From asking to end to SIGKILL.", lower_bound=0.0
  )
  flags.DEFINE_enum(
    "stop_signal",
    "SIGTERM",
    ["SIGTERM", "SIGUSR1"],
    "What asks the command to end; SIGUSR1 for Open MPI's mpirun, which hands it on, "
    "but kills its processes less than a second after a SIGTERM.",
  )


def main(argv: Sequence[str]) -> int:
  """Starts the command that follows `--`; returns its exit code."""
  if not argv[1:]:
    raise UserError(
      "mnv2-launch was given nothing to start. The command follows --, as in: "
      "mnv2-launch --max_restarts=3 -- mnv2-train --model_dir=run"
    )
  values = flags.FLAGS
  return launcher.run(
    launcher.Options(
      tuple(argv[1:]),
      launcher.choose_processes(values.np),
      values.max_restarts,
      values.grace_seconds,
      signal.Signals[values.stop_signal],
    )
  )


def entry_point() -> None:
  """The console script `mnv2-launch`; imports no TensorFlow."""
  command.run(main, define_flags, takes_arguments=True, loads_tensorflow=False)


if __name__ == "__main__":
  entry_point()
