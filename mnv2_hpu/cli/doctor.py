"""Says whether this machine and its packages fit, and what to do where they do not.

Prints one line for each part: ok, note, warn or fail; below a warning or a failure, the
command that fixes it. Ends with code 1 if one failed, else with 0.

Example, before a training, with a look for a Gaudi device:

  mnv2-doctor --data_dir=data/imagenet --model_dir=runs/imagenet --probe_hpu
"""

from collections.abc import Sequence

from absl import flags

from mnv2_hpu import tf_environment
from mnv2_hpu.cli import command, path_flags


def define_flags() -> None:
  """Defines the flags."""
  flags.DEFINE_bool(
    "probe_hpu",
    False,
    "Load Habana's bridge too, in a process of its own, and ask for a device (20 "
    "seconds).",
  )
  path_flags.define_path(
    "data_dir", None, "Folder of TFRecords: try to read and write it, compare clocks."
  )
  path_flags.define_path("model_dir", None, "Folder of a run, new or not: the same.")


def main(argv: Sequence[str]) -> int:
  """Prints the report; returns 1 if a check failed."""
  del argv
  from mnv2_hpu.doctor import checks, environment

  given = path_flags.given()
  named = {f"--{n}": given[n] for n in ("data_dir", "model_dir") if n in given}
  results = checks.run(environment.collect(tf_environment.USER_ENVIRON, named))
  if flags.FLAGS.probe_hpu:
    results.append(checks.hpu(*environment.probe_hpu()))
  print(checks.report(results))
  return int(any(result.status == checks.FAIL for result in results))


def entry_point() -> None:
  """The console script `mnv2-doctor`."""
  command.run(main, define_flags)


if __name__ == "__main__":
  entry_point()
