r"""A small model of a step's time on 8 to 512 devices: what it waits for.

A step takes what is slower, computing or waiting for the input, and what the all-reduce
takes behind it; the slowest of N devices decides. No device was measured: put in your
own numbers.

  python benchmarks/scaling.py --device_images_per_second=3000 \
    --host_images_per_second=16000

`--check` compares it with the trainings of 1, 2 and 4 processes that
`benchmarks/processes.py` has measured: the first two give the model its numbers, the
third is predicted.
"""

import dataclasses
import json
import math
import statistics

import turns
from absl import app, flags

_DEVICE = flags.DEFINE_float(
  "device_images_per_second", 3000, "That one device trains on."
)
_HOST = flags.DEFINE_float(
  "host_images_per_second", 16000, "That one host's input reads."
)
_BATCH = flags.DEFINE_integer("batch_size", 96, "Images a step of one device.")
_DEVICES = flags.DEFINE_integer("devices_per_host", 8, "Devices of one host.")
_GBIT = flags.DEFINE_float(
  "gbit_per_second", 100, "Of a device's link to the next one."
)
_LATENCY = flags.DEFINE_float("latency_us", 20, "Of one message.")
_JITTER = flags.DEFINE_float(
  "jitter", 0.02, "Deviation of a device's step, a fraction."
)
_OVERLAP = flags.DEFINE_float(
  "overlap", 0.0, "Of the all-reduce behind the backward pass."
)
_EXTRA = flags.DEFINE_integer(
  "data_service_hosts", 0, "That read beside the devices' hosts."
)

_CHECK = flags.DEFINE_bool("check", False, "Compare with measured processes.")

PARAMETERS = 3_506_153  # that are trained, of width 1.0 with 1,001 classes
SIZES = (1, 8, 16, 32, 64, 128, 256, 512)


@dataclasses.dataclass(frozen=True)
class Cluster:
  """What a step depends on.

  Attributes:
    device_rate: Images/s that one device trains on.
    input_rate: Images/s that all hosts read, for N devices.
    batch: Images a step of one device.
    bandwidth: Bytes/s of a link.
    latency: Seconds of a message.
    jitter: Standard deviation of a device's step, a fraction of it.
    overlap: Fraction of the all-reduce that the backward pass hides.
  """

  device_rate: float
  input_rate: object
  batch: int
  bandwidth: float
  latency: float
  jitter: float = 0.0
  overlap: float = 0.0

  def compute(self, devices):
    """Seconds of the slowest of so many devices: the expected maximum, about."""
    slowest = 1 + self.jitter * math.sqrt(2 * math.log(devices))
    return self.batch / self.device_rate * slowest

  def all_reduce(self, devices):
    """Seconds of a ring: 2 (N - 1) messages of 1/N of the gradients, float32.

    >>> cluster = Cluster(1000, None, 96, bandwidth=4 * PARAMETERS, latency=0.0)
    >>> round(cluster.all_reduce(1), 3), round(cluster.all_reduce(4), 3)
    (0.0, 1.5)
    """
    messages = 2 * (devices - 1)
    return messages * (4 * PARAMETERS / devices / self.bandwidth + self.latency)

  def step(self, devices):
    """Seconds of a step, and what it waits for."""
    computing = self.compute(devices)
    reading = self.batch * devices / self.input_rate(devices)
    exposed = (1 - self.overlap) * self.all_reduce(devices)
    limit = "input" if reading > computing + exposed else "devices"
    if limit == "devices" and exposed > computing:
      limit = "network"
    return max(computing + exposed, reading), limit


def _from_flags():
  def input_rate(devices):
    hosts = -(-devices // _DEVICES.value) + _EXTRA.value
    return hosts * _HOST.value

  return Cluster(
    _DEVICE.value,
    input_rate,
    _BATCH.value,
    _GBIT.value * 1e9 / 8,
    _LATENCY.value / 1e6,
    _JITTER.value,
    _OVERLAP.value,
  )


def hosts_to_read(devices):
  """Returns the hosts of tf.data service that keep so many devices computing."""
  own = -(-devices // _DEVICES.value) * _HOST.value
  return max(0, math.ceil((devices * _DEVICE.value - own) / _HOST.value))


def check():
  """Prints the measured and the predicted step of four processes on these cores."""
  kept = json.loads((turns.RESULTS / "processes.json").read_text())
  rates = {case["name"]: statistics.median(case["values"]) for case in kept["values"]}
  batch = 32
  one, two, four = (batch / rates[f"processes: {n}"] for n in (1, 2, 4))
  exposed = max(two - one, 1e-9)
  cluster = Cluster(batch / one, None, batch, 4 * PARAMETERS / exposed, latency=0.0)
  predicted = one + cluster.all_reduce(4)
  print(
    f"a step of one process {one:.3f} s, of two {two:.3f} s; of four: predicted "
    f"{predicted:.3f} s, measured {four:.3f} s ({predicted / four - 1:+.0%})"
  )


def main(argv):
  """Prints a table."""
  del argv
  if _CHECK.value:
    check()
    return
  cluster = _from_flags()
  alone = cluster.batch / cluster.device_rate
  print(
    "| devices | ms a step | images/s | of linear | waits for | data service hosts |"
  )
  print("|---|---|---|---|---|---|")
  for devices in SIZES:
    seconds, limit = cluster.step(devices)
    rate = devices * cluster.batch / seconds
    cells = (devices, f"{1000 * seconds:.1f}", f"{rate:,.0f}", f"{alone / seconds:.2f}")
    print("|", *(f"{cell} |" for cell in (*cells, limit, hosts_to_read(devices))))


if __name__ == "__main__":
  app.run(main)
