"""Re-reads prepared TFRecords and lists everything that is wrong with them.

Example, on what mnv2-prepare-data wrote:

  mnv2-verify-data --data_dir=records --deep

Each problem is named with its shard, record and byte; the exit code is 1 where there is
one. `--deep` decodes every image too.
"""

from collections.abc import Sequence

from absl import flags

from mnv2_hpu.cli import command
from mnv2_hpu.cli.path_flags import define_path


def define_flags() -> None:
  """Defines the flags."""
  define_path("data_dir", None, "Folder of the data set.", required=True)
  flags.DEFINE_bool("deep", False, "Decode every image, as training does.")
  flags.DEFINE_integer(
    "num_processes",
    0,
    "Processes that read; 0: one for few images, otherwise one per processor.",
  )


def main(argv: Sequence[str]) -> int:
  """Checks the data set that the flags name; 1 where something is wrong."""
  del argv
  from mnv2_hpu.data_preparation import verify
  from mnv2_hpu.progress import Progress

  values = flags.FLAGS
  with Progress(unit="shard", description="verify") as progress:
    result = verify.verify(
      values.data_dir, values.deep, values.num_processes, progress.update_to
    )
  print(result.summary())
  return 0 if result.ok else 1


def entry_point() -> None:
  """The console script `mnv2-verify-data`."""
  command.run(main, define_flags)


if __name__ == "__main__":
  entry_point()
