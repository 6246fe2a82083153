"""Whether all ranks hold the same model: checksums of everything that is trained.

Gradients are averaged over the ranks, so the loss is the same on all of them even where
their weights are not: no curve shows it. Ranks that began with different weights apply
the same updates to them, and never come together again. Only the weights can tell.
"""

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from mnv2_hpu.distribute import ranks

# Bytes of a variable, over all ranks, up to which its values are compared as well.
_MAX_COMPARED_BYTES = 64 * 1024 * 1024


class RanksDifferError(RuntimeError):
  """Ranks of one training hold different models; the message says which and where."""


@dataclasses.dataclass(frozen=True)
class Difference:
  """What ranks hold differently.

  Attributes:
    step: Step of rank 0.
    ranks: Ranks that hold something else than rank 0, in order.
    text: What differs, in a sentence.
  """

  step: int
  ranks: tuple[int, ...]
  text: str

  def __str__(self) -> str:
    """Returns the whole as one sentence."""
    names = ", ".join(str(rank) for rank in self.ranks)
    plural = "s" * (len(self.ranks) > 1)
    return f"at step {self.step}, rank{plural} {names} and rank 0 differ: {self.text}"


def checksum(value: np.ndarray) -> int:
  """Returns the CRC-32 of an array's type, shape and bytes.

  It depends on the place of each byte, and misses a difference once in 4 billion times.

  >>> checksum(np.array([1, 2])) == checksum(np.array([2, 1]))
  False
  """
  start = zlib.crc32(f"{value.dtype.name}{value.shape}".encode())
  return zlib.crc32(np.ascontiguousarray(value).view(np.uint8).data, start)


def _differing_rows(values: np.ndarray) -> tuple[int, ...]:
  """Returns the rows that differ from row 0 (`[ranks, …]`)."""
  flat = values.reshape(len(values), -1)
  return tuple(np.flatnonzero((flat != flat[0]).any(axis=1)).tolist())


def find_difference(
  strategy: tf.distribute.Strategy, variables: Sequence[tf.Variable], step: int
) -> Difference | None:
  """Compares what the ranks hold; all of them find the same.

  Args:
    strategy: Strategy of all ranks, each of which calls this.
    variables: Variables that must be equal, in the same order on all ranks.
    step: Step of this rank; must be equal as well.

  Returns:
    The first difference, None where there is none, or one process alone.
  """
  if ranks.size(strategy) == 1:
    return None
  own = np.array(
    [checksum(ranks.local_value(strategy, variable)) for variable in variables],
    np.uint32,
  )
  # The details follow only where these three numbers differ.
  summary = np.array([step, len(own), zlib.crc32(own.tobytes())], np.int64)
  gathered = ranks.gather(strategy, summary)
  differing = _differing_rows(gathered)
  if not differing:
    return None
  for column, what in ((0, "at step"), (1, "the number of variables is")):
    if _differing_rows(gathered[:, column]):
      each = ", ".join(
        f"{value} on rank {rank}" for rank, value in enumerate(gathered[:, column])
      )
      return Difference(int(gathered[0, 0]), differing, f"{what} {each}")
  checksums = ranks.gather(strategy, own)
  columns = np.flatnonzero((checksums != checksums[0]).any(axis=0))
  text = _describe(strategy, variables[columns[0]])
  return Difference(
    step,
    differing,
    f"{len(columns)} of {len(variables)} variables, the first of them {text}",
  )


def _describe(strategy: tf.distribute.Strategy, variable: tf.Variable) -> str:
  """Returns a variable's name, its size, and how far ranks are apart in it."""
  value = ranks.local_value(strategy, variable)
  text = f"{variable.name!r} of shape {list(value.shape)}, {value.size} values"
  if value.nbytes * ranks.size(strategy) > _MAX_COMPARED_BYTES:
    return text
  values = ranks.gather(strategy, value).astype(np.float64)
  return f"{text}, up to {np.abs(values - values[0]).max():.3g} apart"


def check(
  strategy: tf.distribute.Strategy, variables: Sequence[tf.Variable], step: int
) -> None:
  """Stops all ranks if they hold different models.

  Raises:
    RanksDifferError: On all ranks, naming those that differ from rank 0, the first
      variable that does, its size and the step.
  """
  difference = find_difference(strategy, variables, step)
  if difference is not None:
    raise RanksDifferError(
      f"the ranks no longer train one model: {difference}. Training on would not "
      "converge. Resume from the last checkpoint, which all ranks then take from rank "
      "0; if it happens again, a device computes wrongly or an operation is not "
      "deterministic (mnv2_hpu.Trainer.resync_interval repairs and reports it)."
    )
