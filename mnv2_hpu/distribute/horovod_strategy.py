"""Horovod as a `tf.distribute.Strategy`: one process a device, one model.

Model Garden's trainer, Keras's optimizers, metrics and synchronised batch normalisation
know nothing of Horovod. They ask the strategy, and this one answers as
MultiWorkerMirroredStrategy does, with Horovod in the place of TensorFlow's collectives.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import (
  distribute_lib,
  distribute_utils,
  input_util,
  mirrored_strategy,
  values,
)
from tensorflow.python.trackable import base as trackable

from mnv2_hpu.distribute import horovod_ops


class HorovodStrategy(tf.distribute.Strategy):
  """Trains one model on all ranks that horovodrun or mpirun started.

  Each rank computes on one device. Variables, also those made later such as slots, get
  rank 0's initial value. What each rank reads of its input, it asks of
  `tf.distribute.InputContext`.

  Args:
    device: Device of this process, such as `device:CPU:0`.
    hvd: Module `horovod.tensorflow`, initialised.
    options: How gradients are bucketed and compressed.
  """

  _collective_key_base = 0  # read by MirroredExtended

  def __init__(self, device: str, hvd: Any, options: horovod_ops.ReduceOptions) -> None:
    super().__init__(HorovodExtended(self, device, hvd, options))


class HorovodExtended(mirrored_strategy.MirroredExtended):
  """What MultiWorkerMirroredStrategy does, by Horovod.

  Variables stay those of MirroredStrategy: metrics and batch statistics are reduced
  when they are read or saved. `strategy.cluster_resolver` stays None, so Model Garden
  builds no preemption handler, which needs TensorFlow's coordination service.
  """

  def __init__(
    self,
    container_strategy: HorovodStrategy,
    device: str,
    hvd: Any,
    options: horovod_ops.ReduceOptions,
  ) -> None:
    self._rank, self._size = hvd.rank(), hvd.size()
    self._collectives = horovod_ops.Collectives(hvd, options)
    super().__init__(
      container_strategy,
      devices=[device],
      cross_device_ops=horovod_ops.HorovodCrossDeviceOps(self._collectives, self._size),
    )

  # ---- Reductions ----

  def _get_cross_device_ops(self, value: Any) -> horovod_ops.HorovodCrossDeviceOps:
    del value  # TensorFlow adds up int32 elsewhere
    return self._cross_device_ops

  def _reduce_to(
    self, reduce_op: Any, value: Any, destinations: Any, options: Any
  ) -> Any:
    def reduce_one(one: Any) -> Any:
      if distribute_utils.is_mirrored(one):
        if reduce_op == tf.distribute.ReduceOp.MEAN:
          return one
        raise ValueError(
          f"{one} is the same on all ranks already: its sum over them has no meaning."
        )
      own = one.values[0] if isinstance(one, values.DistributedValues) else one
      if not isinstance(own, tf.IndexedSlices):
        own = tf.convert_to_tensor(own)
      return self._cross_device_ops.reduce(reduce_op, own, destinations, options)

    return tf.nest.map_structure(reduce_one, value)

  def _batch_reduce_to(
    self, reduce_op: Any, value_destination_pairs: Any, options: Any
  ) -> Any:
    return self._cross_device_ops.batch_reduce(
      reduce_op, value_destination_pairs, options
    )

  def _gather_to_implementation(
    self, value: Any, destinations: Any, axis: int, options: Any
  ) -> Any:
    return self._cross_device_ops._gather(value, destinations, axis, options)

  def _replica_ctx_all_reduce(
    self, reduce_op: Any, value: Any, options: Any = None
  ) -> Any:
    """Reduces in place: the only replica of this process waits for no other here."""
    del options
    flat = [
      one if isinstance(one, tf.IndexedSlices) else tf.convert_to_tensor(one)
      for one in tf.nest.flatten(value)
    ]
    reduced = self._collectives.all_reduce(reduce_op, flat)
    return tf.nest.pack_sequence_as(value, reduced)

  # ---- Variables ----

  def _get_variable_creator_initial_value(
    self, replica_id: int, device: str, primary_var: Any, **kwargs: Any
  ) -> Callable[[], tf.Tensor]:
    """Returns what makes rank 0's initial value on every rank."""
    del replica_id, primary_var  # the only one of this process
    initial_value, dtype = kwargs["initial_value"], kwargs.get("dtype")

    def initial_value_of_rank_0() -> tf.Tensor:
      with tf.device(device):
        value = initial_value() if callable(initial_value) else initial_value
        if isinstance(value, trackable.CheckpointInitialValue):
          value = value.wrapped_value
        return self._collectives.broadcast(tf.convert_to_tensor(value, dtype=dtype))

    return initial_value_of_rank_0

  # ---- Input ----

  def _make_input_context(self) -> tf.distribute.InputContext:
    return tf.distribute.InputContext(
      num_input_pipelines=self._size,
      input_pipeline_id=self._rank,
      num_replicas_in_sync=self._size,
    )

  def _experimental_distribute_dataset(
    self, dataset: tf.data.Dataset, options: Any
  ) -> Any:
    return input_util.get_distributed_dataset(
      dataset,
      self._input_workers_with_options(options),
      self._container_strategy(),
      num_replicas_in_sync=self._size,
      input_context=self._make_input_context(),
      options=options,
    )

  def _distribute_datasets_from_function(
    self, dataset_fn: Callable[..., tf.data.Dataset], options: Any
  ) -> Any:
    return input_util.get_distributed_datasets_from_function(
      dataset_fn,
      self._input_workers_with_options(options),
      [self._make_input_context()],
      self._container_strategy(),
      options,
    )

  def _experimental_distribute_values_from_function(
    self, value_fn: Callable[[Any], Any]
  ) -> Any:
    context = distribute_lib.ValueContext(self._rank, self._size)
    return distribute_utils.regroup([value_fn(context)], always_wrap=True)

  # ---- Topology ----

  def _in_multi_worker_mode(self) -> bool:
    # Otherwise each batch of a finite dataset is preceded by an all-reduce, and ranks
    # that have read theirs get empty ones, for which oneDNN's convolution of TensorFlow
    # 2.15 fails. Evaluation has no collectives until its metrics are read.
    return False

  @property
  def experimental_between_graph(self) -> bool:
    """True: each process builds its own graph."""
    return True

  @property
  def _num_replicas_in_sync(self) -> int:
    return self._size

  @property
  def should_checkpoint(self) -> bool:
    """Whether this is rank 0. Others take part in saving, but elsewhere."""
    return self._rank == 0

  @property
  def should_save_summary(self) -> bool:
    """Whether this is rank 0."""
    return self._rank == 0

  def _get_replica_id_in_sync_group(self, replica_id: int) -> int:
    return self._rank + replica_id

  def _get_local_replica_id(self, replica_id_in_sync_group: int) -> int:
    return replica_id_in_sync_group - self._rank
