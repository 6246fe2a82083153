"""Images per second without a data service, and from one of 1 and of 2 workers here.

Training's pipeline on the images of `input_pipeline.py`, whose flags it takes. On one
host the workers share the trainer's cores, so this shows what the way through the
service costs, not what more hosts bring; the processor's time is the trainer's alone.

  python benchmarks/data_service.py --images=4096 --rounds=5 --seconds=10
"""

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

import input_pipeline
import photographs
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
  """Makes the data, measures in turn and prints a table."""
  del argv
  values = flags.FLAGS
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
    photographs.write_records(Path(folder), values.images, input_pipeline.CLASSES)
    datasets = {"mnv2_hpu training": input_pipeline.ours(f"{folder}/train-*", True)}
    for number in NUM_WORKERS:
      datasets[f"a service, workers: {number}"] = input_pipeline.ours(
        f"{folder}/train-*", True, service_address=stack.enter_context(_service(number))
      )
    rates = {name: [] for name in datasets}
    for _ in range(values.rounds):
      for name, found in rates.items():
        found.append(input_pipeline.measure(datasets[name]))
    input_pipeline.print_table(rates)


if __name__ == "__main__":
  app.run(main)
