r"""Starts a tf.data service, whose workers read, decode and distort training's images.

Examples, a dispatcher and workers on as many hosts, or both on this one:

  mnv2-data-service dispatcher --port=5050 --work_dir=service
  mnv2-data-service worker --dispatcher=loader-0:5050
  mnv2-data-service --workers=2

  mnv2-train --gin_file=gin/imagenet.gin --model_dir=runs/imagenet … \
    --params_override=task.train_data.service_address=grpc://loader-0:5050,\
  task.train_data.deterministic=false

The workers open the data under the paths that the trainers have. SIGTERM and Ctrl-C end
a process; a trainer goes on with the workers that are left. docs/input_pipeline.md says
what a service cannot promise.
"""

from collections.abc import Sequence

from absl import flags

from mnv2_hpu.cli import command
from mnv2_hpu.cli.path_flags import define_path
from mnv2_hpu.data_service import address
from mnv2_hpu.errors import UserError


def define_flags() -> None:
  """Defines the flags."""
  flags.DEFINE_integer(
    "port",
    None,
    f"Port: by default {address.DEFAULT_PORT}, of a worker a free one.",
    lower_bound=0,
    upper_bound=65535,
  )
  flags.DEFINE_string("dispatcher", None, "HOST:PORT that a worker joins.")
  flags.DEFINE_integer(
    "workers", None, "A dispatcher and so many workers, for this host.", lower_bound=1
  )
  define_path(
    "work_dir", None, "Folder with which a dispatcher survives a restart.", written=True
  )
  flags.DEFINE_float(
    "timeout", 60.0, "Seconds that a worker waits for its dispatcher.", lower_bound=0.0
  )


def main(argv: Sequence[str]) -> None:
  """Runs what the first argument names, until it is told to end."""
  values = flags.FLAGS
  role = " ".join(argv[1:]) or ("both" if values.workers else "")
  needed = {"dispatcher": (), "worker": ("dispatcher",), "both": ("workers",)}
  given = {name for name in ("dispatcher", "workers") if values[name].value is not None}
  if role not in needed or given != set(needed[role]):
    raise UserError(
      f"mnv2-data-service got {role or 'nothing'!r} and {sorted(given)}. Allowed are: "
      "dispatcher; worker --dispatcher=HOST:PORT; --workers=N for both on this host."
    )
  dispatcher = values.dispatcher and address.parse(values.dispatcher, "--dispatcher")
  default_port = 0 if dispatcher else address.DEFAULT_PORT
  port = default_port if values.port is None else values.port
  from mnv2_hpu.data_service import server

  server.run(
    server.Options(
      port, dispatcher, values.workers or 0, values.work_dir or "", values.timeout
    )
  )


def entry_point() -> None:
  """The console script `mnv2-data-service`."""
  command.run(main, define_flags, takes_arguments=True)


if __name__ == "__main__":
  entry_point()
