"""Several processes that train one model: which one this is, and their collectives.

A rank is one process of a multi-worker strategy: Horovod's, MultiWorkerMirrored's,
Habana's. Everything here uses only what `tf.distribute` offers to all of them,
`strategy.run` and a sum over the replicas, and is an identity where one process trains.

Values are sent as bytes, each in a float32. That is exact for every type,
infinities and NaNs included. It needs nothing else of the collective library: Gaudi's
(HCCL) sums float32 and bfloat16 only [1], TensorFlow's on GPU no int32 [2]; and a byte
survives being compressed to bfloat16 or float16 on the way.

All functions run eagerly, and block until every rank has called them: call them on all
ranks, in the same order.

[1] docs.habana.ai, HCCL APIs, C API: hcclDataType_t
[2] tensorflow/core/common_runtime/base_collective_executor.cc, CreateCollective
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mnv2_hpu.errors import UserError

# Bytes in one collective; a float32 each, so 16 MiB on the wire. Bounds the memory.
_CHUNK = 4 * 1024 * 1024


@functools.cache
def _replicas(strategy: tf.distribute.Strategy) -> tuple[int, int]:
  """Returns (first replica of this process, replicas of this process)."""
  ids = strategy.experimental_local_results(
    strategy.experimental_distribute_values_from_function(
      lambda context: context.replica_id_in_sync_group
    )
  )
  return int(ids[0]), len(ids)


def rank(strategy: tf.distribute.Strategy) -> int:
  """Returns which process of the strategy this is; 0 is the one that writes."""
  first, local = _replicas(strategy)
  return first // local


def size(strategy: tf.distribute.Strategy) -> int:
  """Returns the number of processes of the strategy."""
  return strategy.num_replicas_in_sync // _replicas(strategy)[1]


@functools.cache
def _compiled_sum(
  strategy: tf.distribute.Strategy, length: int
) -> Callable[[Any], Any]:
  """Returns the function that sums a float32 `[length]` over all replicas."""
  del length  # a function a shape: TensorFlow warns where one gets several

  def of_replica(vector: tf.Tensor) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    # An argument has no device yet; the copy gets that of the replica.
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(vector))

  @tf.function
  def total(vector: Any) -> Any:
    return strategy.run(of_replica, args=(vector,))

  return total


def _sum_bytes(strategy: tf.distribute.Strategy, content: np.ndarray) -> np.ndarray:
  """Sums bytes `[n]` of all ranks, of which at most one is not zero at any place."""
  first, _ = _replicas(strategy)
  parts = []
  for start in range(0, len(content), _CHUNK):
    part = content[start : start + _CHUNK].astype(np.float32)
    # A power of two, so that few shapes are compiled however many variables there are.
    padded = np.zeros(1 << max(3, (len(part) - 1).bit_length()), np.float32)
    padded[: len(part)] = part
    of_others = np.zeros_like(padded)
    vector = strategy.experimental_distribute_values_from_function(
      lambda context, own=padded, others=of_others: tf.constant(
        own if context.replica_id_in_sync_group == first else others
      )
    )
    (summed, *_) = strategy.experimental_local_results(
      _compiled_sum(strategy, len(padded))(vector)
    )
    parts.append(summed.numpy()[: len(part)].astype(np.uint8))
  return np.concatenate(parts) if parts else content


def gather(strategy: tf.distribute.Strategy, values: np.ndarray) -> np.ndarray:
  """Collects an array of each rank on all ranks.

  Args:
    strategy: Strategy of all ranks.
    values: Array of any shape and numerical type, the same on all ranks.

  Returns:
    `[ranks, *values.shape]`: the values of each rank, bit by bit.
  """
  values = np.asarray(values)
  rows = np.zeros((size(strategy), values.nbytes), np.uint8)
  rows[rank(strategy)] = np.frombuffer(values.tobytes(), np.uint8)
  gathered = _sum_bytes(strategy, rows.ravel()) if len(rows) > 1 else rows
  shape = (len(rows), *values.shape)
  return np.frombuffer(gathered.tobytes(), values.dtype).reshape(shape)


def broadcast_int(strategy: tf.distribute.Strategy, value: int) -> int:
  """Returns rank 0's value, which lies in the range of int64."""
  return int(gather(strategy, np.array(value, np.int64))[0])


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
  """Returns once all ranks have called it."""
  gather(strategy, np.zeros([], np.uint8))


def local_value(strategy: tf.distribute.Strategy, variable: tf.Variable) -> np.ndarray:
  """Returns what the first replica of this process holds of a variable.

  Unlike `variable.numpy()` it never reduces over replicas.
  """
  return strategy.experimental_local_results(variable)[0].numpy()


def broadcast_variables(
  strategy: tf.distribute.Strategy, variables: Sequence[tf.Variable]
) -> None:
  """Sets the variables of all replicas of all ranks to what rank 0 holds, bit by bit.

  Where replicas hold values of their own (batch statistics), all get those of rank 0's
  first replica.

  Args:
    strategy: Strategy of all ranks.
    variables: Variables of any numerical type, in the same order on all ranks.
  """
  if size(strategy) == 1:
    return
  values = [local_value(strategy, variable) for variable in variables]
  content = np.frombuffer(b"".join(v.tobytes() for v in values), np.uint8)
  if rank(strategy):
    content = np.zeros_like(content)
  content = _sum_bytes(strategy, content)
  start = 0
  for variable, own in zip(variables, values, strict=True):
    raw = content[start : start + own.nbytes].tobytes()
    start += own.nbytes
    for part in strategy.experimental_local_results(variable):
      if part.numpy().tobytes() != raw:
        part.assign(np.frombuffer(raw, own.dtype).reshape(own.shape))


@contextlib.contextmanager
def failing_together(strategy: tf.distribute.Strategy) -> Iterator[None]:
  """Ends all ranks where one of them meets a mistake of the user.

  What only one rank looks at (the model folder, say) would otherwise leave the others
  waiting for a rank that has ended.

  Raises:
    UserError: The one raised inside; on ranks without one, one that names the ranks.
  """
  error: UserError | None = None
  try:
    yield
  except UserError as raised:
    error = raised
  failed = gather(strategy, np.array(error is not None, np.uint8))
  if error is not None:
    raise error
  if failed.any():
    names = ", ".join(str(index) for index in np.flatnonzero(failed))
    raise UserError(
      f"rank {names} cannot start; this rank ({rank(strategy)}) ends with it. Its "
      "message says why."
    )
