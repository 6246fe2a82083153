r"""A small model of the time of a step on 8 to 512 cards, and where it stops to scale.

A step takes what is slower, computing or waiting for the input, and what the all-reduce
takes behind it; the slowest of N cards decides. No card was measured: put in your own
numbers.

  python benchmarks/scaling.py --card_images_per_second=3000 \
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

_CARD = flags.DEFINE_float("card_images_per_second", 3000, "That one card trains on.")
_HOST = flags.DEFINE_float(
  "host_images_per_second", 16000, "That one host's input reads."
)
_BATCH = flags.DEFINE_integer("batch_size", 96, "Images a step of one card.")
_CARDS = flags.DEFINE_integer("cards_per_host", 8, "Cards of one host.")
_GBIT = flags.DEFINE_float("gbit_per_second", 100, "Of a card's link to the next one.")
_LATENCY = flags.DEFINE_float("latency_us", 20, "Of one message.")
_JITTER = flags.DEFINE_float("jitter", 0.02, "Deviation of a card's step, a fraction.")
_OVERLAP = flags.DEFINE_float(
  "overlap", 0.0, "Of the all-reduce behind the backward pass."
)
_EXTRA = flags.DEFINE_integer(
  "data_service_hosts", 0, "That read beside the cards' hosts."
)

_CHECK = flags.DEFINE_bool("check", False, "Compare with measured processes.")

PARAMETERS = 3_506_153  # that are trained, of width 1.0 with 1,001 classes
SIZES = (1, 8, 16, 32, 64, 128, 256, 512)


@dataclasses.dataclass(frozen=True)
class Cluster:
  """What a step depends on.

  Attributes:
    card_rate: Images/s that one card trains on.
    input_rate: Images/s that all hosts read, for N cards.
    batch: Images a step of one card.
    bandwidth: Bytes/s of a link.
    latency: Seconds of a message.
    jitter: Standard deviation of a card's step, a fraction of it.
    overlap: Fraction of the all-reduce that the backward pass hides.
  """

  card_rate: float
  input_rate: object
  batch: int
  bandwidth: float
  latency: float
  jitter: float = 0.0
  overlap: float = 0.0

  def compute(self, cards):
    """Seconds of the slowest of so many cards: the expected maximum, to first order."""
    slowest = 1 + self.jitter * math.sqrt(2 * math.log(cards))
    return self.batch / self.card_rate * slowest

  def all_reduce(self, cards):
    """Seconds of a ring: 2 (N - 1) messages of 1/N of the gradients, float32.

    >>> cluster = Cluster(1000, None, 96, bandwidth=4 * PARAMETERS, latency=0.0)
    >>> round(cluster.all_reduce(1), 3), round(cluster.all_reduce(4), 3)
    (0.0, 1.5)
    """
    messages = 2 * (cards - 1)
    return messages * (4 * PARAMETERS / cards / self.bandwidth + self.latency)

  def step(self, cards):
    """Seconds of a step, and what it waits for."""
    computing = self.compute(cards)
    reading = self.batch * cards / self.input_rate(cards)
    exposed = (1 - self.overlap) * self.all_reduce(cards)
    limit = "input" if reading > computing + exposed else "cards"
    if limit == "cards" and exposed > computing:
      limit = "network"
    return max(computing + exposed, reading), limit


def _from_flags():
  def input_rate(cards):
    hosts = -(-cards // _CARDS.value) + _EXTRA.value
    return hosts * _HOST.value

  return Cluster(
    _CARD.value,
    input_rate,
    _BATCH.value,
    _GBIT.value * 1e9 / 8,
    _LATENCY.value / 1e6,
    _JITTER.value,
    _OVERLAP.value,
  )


def hosts_to_read(cards):
  """Returns the hosts of tf.data service that keep so many cards computing."""
  own = -(-cards // _CARDS.value) * _HOST.value
  return max(0, math.ceil((cards * _CARD.value - own) / _HOST.value))


def check():
  """Prints the measured and the predicted step of four processes on these cores."""
  kept = json.loads((turns.RESULTS / "processes.json").read_text())
  rates = {case["name"]: statistics.median(case["values"]) for case in kept["values"]}
  batch = 32
  one, two, four = (batch / rates[f"processes: {n}"] for n in (1, 2, 4))
  exchange = max(two - one, 1e-9)
  cluster = Cluster(batch / one, None, batch, 4 * PARAMETERS / exchange, latency=0.0)
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
  alone = cluster.batch / cluster.card_rate
  print("| cards | ms a step | images/s | of linear | waits for | data service hosts |")
  print("|---|---|---|---|---|---|")
  for cards in SIZES:
    seconds, limit = cluster.step(cards)
    rate = cards * cluster.batch / seconds
    cells = (cards, f"{1000 * seconds:.1f}", f"{rate:,.0f}", f"{alone / seconds:.2f}")
    print("|", *(f"{cell} |" for cell in (*cells, limit, hosts_to_read(cards))))


if __name__ == "__main__":
  app.run(main)
