"""Images per second without a data service, and from one of 1 and of 2 workers here.

Training's pipeline on the images of `input_pipeline.py`, whose flags it takes. On one
host the workers share the trainer's cores, so this shows what the way through the
service costs, not what more hosts bring; the processor's time is the trainer's alone.

  python benchmarks/data_service.py --images=4096 --rounds=5 --seconds=10
"""

import contextlib
import functools
import subprocess
import sys
import tempfile
from pathlib import Path

import input_pipeline
import photographs
import turns
from absl import app, flags

from mnv2_hpu import cluster

NUM_WORKERS = (1, 2)


@contextlib.contextmanager
def _service(num_workers):
  """The address of a dispatcher with so many workers, in a process of their own."""
  (port,) = cluster.free_ports(1)
  command = [sys.executable, "-W", "ignore", "-m", "mnv2_hpu.cli.data_service"]
  with subprocess.Popen(
    [*command, f"--workers={num_workers}", f"--port={port}"],
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    process.stdout.readline()
    yield f"grpc://localhost:{port}"
    process.terminate()


def main(argv):
  """Makes the data, measures, prints a table and keeps it."""
  del argv
  values = flags.FLAGS
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
    photographs.write_records(Path(folder), values.images, input_pipeline.CLASSES)
    datasets = {"without a service": input_pipeline.ours(f"{folder}/train-*", True)}
    for number in NUM_WORKERS:
      datasets[f"workers: {number}"] = input_pipeline.ours(
        f"{folder}/train-*", True, service_address=stack.enter_context(_service(number))
      )
    measures = {
      ("training input", name): functools.partial(input_pipeline.rate, dataset)
      for name, dataset in datasets.items()
    }
    results = turns.take_turns(measures, values.rounds, warm_up=False)
  turns.publish(
    "data_service",
    "A data service whose workers share two cores with the trainer: "
    f"{values.images} JPEGs, batch {values.batch_size}, {values.image_size} px",
    "images/s",
    results,
    more_is_better=True,
  )


if __name__ == "__main__":
  app.run(main)
