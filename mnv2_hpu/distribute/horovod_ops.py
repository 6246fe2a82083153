"""Collectives of Horovod, for tensors of any type: sums, gathers, broadcasts.

Horovod is imported by `horovod.import_horovod`, when a strategy is made.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import cross_device_ops, values, values_util

from mnv2_hpu.errors import UserError

# Types that Horovod does not add up -> a type that it does, and that holds them. Sums
# that leave the range wrap around, as they do in TensorFlow.
_SUM_DTYPE = {
  tf.bool: tf.int32,
  tf.bfloat16: tf.float32,
  tf.int16: tf.int32,
  tf.uint16: tf.int32,
  tf.uint32: tf.int64,
  tf.uint64: tf.int64,
}
# Types that Horovod does not send -> a type of as many bytes that it does.
_TRANSPORT_DTYPE = {
  tf.bfloat16: tf.uint16,
  tf.uint32: tf.int32,
  tf.uint64: tf.int64,
  tf.complex64: tf.int64,
}
COMPRESSIONS = {"none": None, "fp16": tf.float16, "bf16": tf.bfloat16}


@dataclasses.dataclass(frozen=True)
class ReduceOptions:
  """How several tensors are reduced together.

  Attributes:
    compression: Key of `COMPRESSIONS`: type in which gradients are sent.
    bucket_bytes: Approximate size of the buckets of tensors that are reduced together.
  """

  compression: str = "none"
  bucket_bytes: int = 64 * 1024 * 1024

  def __post_init__(self) -> None:
    """Refuses values without a meaning."""
    if self.compression not in COMPRESSIONS:
      raise UserError(
        f"mnv2_hpu.horovod.gradient_compression is {self.compression!r}; it must be "
        f"one of {', '.join(COMPRESSIONS)}."
      )
    if self.bucket_bytes < 1:
      raise UserError(
        f"mnv2_hpu.horovod.fusion_threshold_mb gives {self.bucket_bytes} bytes; it "
        "must be positive."
      )


def _apply_bitwise(
  copy: Callable[[tf.Tensor], tf.Tensor], tensor: tf.Tensor
) -> tf.Tensor:
  """Applies `copy`, which moves elements, bit by bit to a tensor of any number type."""
  via = _TRANSPORT_DTYPE.get(tensor.dtype)
  if via is None:
    return copy(tensor)
  return tf.bitcast(copy(tf.bitcast(tensor, via)), tensor.dtype)


class Collectives:
  """Sums, gathers and broadcasts over all ranks.

  Args:
    hvd: Module `horovod.tensorflow`, initialised.
    options: How several tensors are reduced together.
  """

  def __init__(self, hvd: Any, options: ReduceOptions) -> None:
    self._hvd = hvd
    self._options = options
    self._size = hvd.size()

  def broadcast(self, tensor: tf.Tensor) -> tf.Tensor:
    """Returns rank 0's tensor; all ranks give one of the same type and shape."""
    return _apply_bitwise(lambda one: self._hvd.broadcast(one, root_rank=0), tensor)

  def gather(self, tensor: tf.Tensor, axis: int = 0) -> tf.Tensor:
    """Concatenates the tensors of all ranks; their lengths along `axis` may differ."""
    if axis == 0:
      return _apply_bitwise(self._hvd.allgather, tensor)
    # Horovod knows the first axis only.
    order = list(range(tensor.shape.rank))
    order[0], order[axis] = order[axis], order[0]
    return tf.transpose(self.gather(tf.transpose(tensor, order)), order)

  def all_reduce(
    self, reduce_op: tf.distribute.ReduceOp, tensors: Sequence[Any]
  ) -> list[Any]:
    """Reduces each tensor over the ranks.

    Several tensors that come together are bucketed, always in the same way. Horovod
    would fuse what happens to be ready, and the order in which three and more ranks add
    an element up depends on its place in the bucket: runs would not repeat bit by bit.

    Args:
      reduce_op: SUM, or MEAN: the sum divided by the number of ranks.
      tensors: Dense tensors, or `tf.IndexedSlices`.

    Returns:
      As many tensors, in the same order. Compressed are floating-point
      tensors that come together with others: that is how Keras's optimizers reduce
      gradients. Batch normalisation reduces each of its statistics by itself.
    """
    results: list[Any] = [None] * len(tensors)
    bucketable: dict[tf.DType, list[int]] = {}
    # Gradients of the last layers are ready first.
    for index in reversed(range(len(tensors))):
      tensor = tensors[index]
      if isinstance(tensor, tf.IndexedSlices):
        results[index] = self._sum_slices(tensor)
      elif len(tensors) == 1 or not tensor.shape.is_fully_defined():
        results[index] = self._sum(tensor)
      else:
        bucketable.setdefault(tensor.dtype, []).append(index)
    for dtype, indices in bucketable.items():
      for bucket in self._buckets(dtype, indices, tensors):
        summed = self._sum_bucket([tensors[index] for index in bucket])
        for index, tensor in zip(bucket, summed, strict=True):
          results[index] = tensor
    if reduce_op == tf.distribute.ReduceOp.MEAN:
      return [_divide(result, self._size) for result in results]
    return results

  def _buckets(
    self, dtype: tf.DType, indices: Sequence[int], tensors: Sequence[tf.Tensor]
  ) -> list[list[int]]:
    buckets: list[list[int]] = []
    room = 0
    for index in indices:
      size = tensors[index].shape.num_elements() * dtype.size
      if not buckets or size > room:
        buckets.append([])
        room = self._options.bucket_bytes
      buckets[-1].append(index)
      room -= size
    return buckets

  def _sum_bucket(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)
    compressed = COMPRESSIONS[self._options.compression]
    if compressed is not None and flat.dtype in (tf.float32, tf.float64):
      flat = self._sum_compressed(flat, compressed)
    else:
      flat = self._sum(flat)
    parts = tf.split(flat, [tensor.shape.num_elements() for tensor in tensors])
    return [
      tf.reshape(part, tensor.shape)
      for part, tensor in zip(parts, tensors, strict=True)
    ]

  def _sum(self, tensor: tf.Tensor) -> tf.Tensor:
    hvd, dtype = self._hvd, tensor.dtype
    summed = hvd.allreduce(tf.cast(tensor, _SUM_DTYPE.get(dtype, dtype)), op=hvd.Sum)
    return tf.cast(summed, dtype)

  def _sum_compressed(self, vector: tf.Tensor, narrow: tf.DType) -> tf.Tensor:
    """Sums `[n]` in float32 while only `narrow` is sent, twice, as in any all-reduce.

    Each rank adds up one part of the vector, in the order of the ranks.
    """
    hvd, size = self._hvd, self._size
    length = vector.shape.num_elements()
    part = -(-length // size)
    padded = tf.pad(tf.cast(vector, narrow), [[0, part * size - length]])
    parts = tf.bitcast(hvd.alltoall(tf.bitcast(padded, tf.uint16)), narrow)
    of_ranks = tf.unstack(tf.reshape(tf.cast(parts, tf.float32), [size, part]))
    summed = tf.cast(tf.add_n(of_ranks), narrow)
    whole = tf.bitcast(hvd.allgather(tf.bitcast(summed, tf.uint16)), narrow)
    return tf.ensure_shape(tf.cast(whole[:length], vector.dtype), [length])

  def _sum_slices(self, slices: tf.IndexedSlices) -> tf.IndexedSlices:
    return tf.IndexedSlices(
      values=self.gather(slices.values),
      indices=self.gather(slices.indices),
      dense_shape=slices.dense_shape,
    )


def _divide(value: Any, size: int) -> Any:
  if isinstance(value, tf.IndexedSlices):
    return tf.IndexedSlices(value.values / size, value.indices, value.dense_shape)
  return value / size


class HorovodCrossDeviceOps(cross_device_ops.CrossDeviceOps):
  """Reduces values of one replica a process over all processes."""

  def __init__(self, collectives: Collectives, size: int) -> None:
    super().__init__()
    self._collectives = collectives
    self._size = size

  @property
  def _num_between_graph_workers(self) -> int:
    return self._size

  def reduce_implementation(
    self,
    reduce_op: tf.distribute.ReduceOp,
    per_replica_value: values.PerReplica,
    destinations: Any,
    options: Any,
  ) -> Any:
    """Reduces one value to the devices of `destinations`."""
    pair = (per_replica_value, destinations)
    return self.batch_reduce_implementation(reduce_op, [pair], options)[0]

  def batch_reduce_implementation(
    self,
    reduce_op: tf.distribute.ReduceOp,
    value_destination_pairs: Sequence[tuple[values.PerReplica, Any]],
    options: Any,
  ) -> list[Any]:
    """Reduces several values together, each to the devices of its destinations."""
    del options
    values_util.mark_as_unsaveable()  # a SavedModel runs in one process
    own = [value.values[0] for value, _ in value_destination_pairs]
    return [
      cross_device_ops.simple_broadcast(reduced, destinations, always_mirrored=True)
      for reduced, (_, destinations) in zip(
        self._collectives.all_reduce(reduce_op, own),
        value_destination_pairs,
        strict=True,
      )
    ]

  def _gather_implementation(
    self,
    per_replica_value: values.PerReplica,
    destinations: Any,
    axis: int,
    options: Any,
  ) -> Any:
    del options
    values_util.mark_as_unsaveable()
    gathered = self._collectives.gather(per_replica_value.values[0], axis)
    return cross_device_ops.simple_broadcast(
      gathered, destinations, always_mirrored=True
    )
