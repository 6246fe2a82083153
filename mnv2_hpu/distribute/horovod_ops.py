"""What crosses processes under Horovod: sums, gathers and broadcasts of any type.

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
_SUMMED_AS = {
  tf.bool: tf.int32,
  tf.bfloat16: tf.float32,
  tf.int16: tf.int32,
  tf.uint16: tf.int32,
  tf.uint32: tf.int64,
  tf.uint64: tf.int64,
}
# Types that Horovod does not move -> a type of as many bytes that it does.
_MOVED_AS = {
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
    compression: A key of `COMPRESSIONS`: the type in which gradients travel.
    bytes_per_pack: Tensors are packed into vectors of about so many bytes.
  """

  compression: str = "none"
  bytes_per_pack: int = 64 * 1024 * 1024

  def __post_init__(self) -> None:
    """Refuses values without a meaning."""
    if self.compression not in COMPRESSIONS:
      raise UserError(
        f"mnv2_hpu.horovod.gradient_compression is {self.compression!r}; it must be "
        f"one of {', '.join(COMPRESSIONS)}."
      )
    if self.bytes_per_pack < 1:
      raise UserError(
        f"mnv2_hpu.horovod.fusion_threshold_mb gives {self.bytes_per_pack} bytes; it "
        "must be positive."
      )


def _moved(move: Callable[[tf.Tensor], tf.Tensor], tensor: tf.Tensor) -> tf.Tensor:
  """Applies what copies elements, bit by bit, to a tensor of any numerical type."""
  via = _MOVED_AS.get(tensor.dtype)
  if via is None:
    return move(tensor)
  return tf.bitcast(move(tf.bitcast(tensor, via)), tensor.dtype)


class Collectives:
  """Sums, gathers and broadcasts over all ranks.

  Args:
    hvd: the module `horovod.tensorflow`, initialised.
    options: how several tensors are reduced together.
  """

  def __init__(self, hvd: Any, options: ReduceOptions) -> None:
    self._hvd = hvd
    self._options = options
    self._size = hvd.size()

  def broadcast(self, tensor: tf.Tensor) -> tf.Tensor:
    """Returns rank 0's tensor; all ranks give one of the same type and shape."""
    return _moved(lambda moved: self._hvd.broadcast(moved, root_rank=0), tensor)

  def gather(self, tensor: tf.Tensor, axis: int = 0) -> tf.Tensor:
    """Concatenates the tensors of all ranks; their lengths along `axis` may differ."""
    if axis == 0:
      return _moved(self._hvd.allgather, tensor)
    # Horovod knows the first axis only.
    order = list(range(tensor.shape.rank))
    order[0], order[axis] = order[axis], order[0]
    return tf.transpose(self.gather(tf.transpose(tensor, order)), order)

  def all_reduce(
    self, reduce_op: tf.distribute.ReduceOp, tensors: Sequence[Any]
  ) -> list[Any]:
    """Reduces each tensor over the ranks.

    Several tensors that come together are packed, always into the same vectors. Horovod
    would fuse what happens to be ready, and the order in which three and more ranks add
    an element up depends on its place in the vector: runs would not repeat bit by bit.

    Args:
      reduce_op: SUM, or MEAN: the sum divided by the number of ranks.
      tensors: dense, or `tf.IndexedSlices`.

    Returns:
      As many tensors, in the same order. Compressed on their way are floating-point
      tensors of which several come together: that is how Keras's optimizers reduce
      gradients. Batch normalisation reduces each of its statistics by itself.
    """
    results: list[Any] = [None] * len(tensors)
    packable: dict[tf.DType, list[int]] = {}
    # Gradients of the last layers are ready first.
    for index in reversed(range(len(tensors))):
      tensor = tensors[index]
      if isinstance(tensor, tf.IndexedSlices):
        results[index] = self._sum_slices(tensor)
      elif len(tensors) == 1 or not tensor.shape.is_fully_defined():
        results[index] = self._sum(tensor)
      else:
        packable.setdefault(tensor.dtype, []).append(index)
    for dtype, indices in packable.items():
      for pack in self._packs(dtype, indices, tensors):
        summed = self._sum_packed([tensors[index] for index in pack])
        for index, tensor in zip(pack, summed, strict=True):
          results[index] = tensor
    if reduce_op == tf.distribute.ReduceOp.MEAN:
      return [_divide(result, self._size) for result in results]
    return results

  def _packs(
    self, dtype: tf.DType, indices: Sequence[int], tensors: Sequence[tf.Tensor]
  ) -> list[list[int]]:
    packs: list[list[int]] = []
    room = 0
    for index in indices:
      size = tensors[index].shape.num_elements() * dtype.size
      if not packs or size > room:
        packs.append([])
        room = self._options.bytes_per_pack
      packs[-1].append(index)
      room -= size
    return packs

  def _sum_packed(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
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
    summed = hvd.allreduce(tf.cast(tensor, _SUMMED_AS.get(dtype, dtype)), op=hvd.Sum)
    return tf.cast(summed, dtype)

  def _sum_compressed(self, vector: tf.Tensor, narrow: tf.DType) -> tf.Tensor:
    """Sums `[n]` in float32 while only `narrow` travels, twice, as in any all-reduce.

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
