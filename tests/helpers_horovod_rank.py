"""One rank of `test_horovod_strategy`: what each collective gave goes to a file.

python tests/helpers_horovod_rank.py FOLDER
"""

import pathlib
import sys

import numpy as np
import tensorflow as tf

from mnv2_hpu.compat import keras
from mnv2_hpu.distribute import horovod, horovod_ops

SUM, MEAN = tf.distribute.ReduceOp.SUM, tf.distribute.ReduceOp.MEAN
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64")
SHAPES = ((3,), (2, 2), (), (5, 1), (7,))
LEARNING_RATE = 0.5


def gradients(rank):
  """Tensors of several shapes, with values that no 16-bit type holds."""
  rng = np.random.default_rng(rank)
  return [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]


def _types(strategy, found):
  """Each collective for each type, eagerly and compiled."""

  def all_reduced(value):
    context = tf.distribute.get_replica_context()
    return context.all_reduce(SUM, tf.identity(value))

  compiled = tf.function(lambda value: strategy.run(all_reduced, args=(value,)))
  for name in (*INTEGERS, *FLOATS):
    value = strategy.experimental_distribute_values_from_function(
      lambda context, name=name: tf.cast(
        [1 + context.replica_id_in_sync_group, 3], name
      )
    )
    results = {
      "reduce": strategy.reduce(SUM, value, axis=None),
      "eager": strategy.run(all_reduced, args=(value,)),
      "compiled": compiled(value),
      "gather": strategy.gather(value, axis=0),
      "mean": strategy.reduce(MEAN, value, axis=None),
    }
    for kind, result in results.items():
      if kind != "mean":
        assert result.dtype == tf.as_dtype(name), (kind, result)
      found[f"{kind} {name}"] = tf.cast(result, tf.float64).numpy()


def _buckets(hvd, found):
  """Several tensors together, in one vector and in several, in each compression."""
  own = [tf.constant(gradient) for gradient in gradients(hvd.rank())]
  for compression in horovod_ops.COMPRESSIONS:
    for bucket_bytes in (1, 40, 1 << 20):
      options = horovod_ops.ReduceOptions(compression, bucket_bytes)
      collectives = horovod_ops.Collectives(hvd, options)
      reduced = tf.function(collectives.all_reduce)(SUM, own)
      for index, tensor in enumerate(reduced):
        found[f"bucket {compression} {bucket_bytes} {index}"] = tensor.numpy()


def _shapes(strategy, rank, found):
  """Values that ranks have in different lengths or sparsely."""
  wide = strategy.experimental_distribute_values_from_function(
    lambda context: tf.fill([2, 1 + context.replica_id_in_sync_group], 1.0 + rank)
  )
  found["gather columns"] = strategy.gather(wide, axis=1).numpy()

  def sparse_sum():
    slices = tf.IndexedSlices(
      tf.fill([1, 2], 2.0 + rank), tf.constant([rank]), tf.constant([3, 2])
    )
    return tf.distribute.get_replica_context().all_reduce(MEAN, slices)

  found["sparse"] = tf.convert_to_tensor(strategy.run(sparse_sum)).numpy()


def _variables(strategy, rank, found):
  """Initial values that ranks draw differently, of slots too."""
  keras.utils.set_random_seed(rank)
  weights = np.array([np.nan, -0.0, np.inf, rank], np.float32)
  with strategy.scope():
    found["weights"] = tf.Variable(weights).numpy()
    found["half"] = tf.Variable(tf.random.normal([3], dtype=tf.bfloat16)).numpy()
    found["flag"] = tf.Variable(rank == 0).numpy()
    dense = keras.layers.Dense(3)
    dense.build([None, 2])
    optimizer = keras.optimizers.legacy.SGD()
    slot = optimizer.add_slot(dense.kernel, "noise", keras.initializers.RandomNormal())
  found["kernel"] = dense.kernel.numpy()
  found["slot"] = slot.numpy()


def _step(strategy, rank, found):
  """A step of SGD on a layer with synchronised batch normalisation, and a metric."""
  keras.utils.set_random_seed(rank)
  with strategy.scope():
    norm = keras.layers.BatchNormalization(
      momentum=0.5, epsilon=1e-3, synchronized=True
    )
    norm.build([None, 2])
    optimizer = keras.optimizers.legacy.SGD(LEARNING_RATE)
    metric = keras.metrics.Mean()

  @tf.function
  def step(images):
    def of_replica(own):
      with tf.GradientTape() as tape:
        loss = tf.reduce_sum(norm(own, training=True) ** 3) / 4.0
      weights = norm.trainable_variables
      optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
      metric.update_state(own)

    strategy.run(of_replica, args=(images,))

  images = strategy.experimental_distribute_values_from_function(
    lambda context: tf.constant(batch(context.replica_id_in_sync_group), tf.float32)
  )
  step(images)
  found["gamma"], found["beta"] = norm.gamma.numpy(), norm.beta.numpy()
  found["moving mean"] = norm.moving_mean.numpy()
  found["metric"] = metric.result().numpy()


def batch(rank):
  """The images of a rank: `[2, 2]`."""
  return np.array([[1.0, 2.0], [3.0, 5.0]]) * (1 + rank) + rank


def _input(strategy, found):
  def numbers(context):
    data = tf.data.Dataset.range(8)
    return data.shard(context.num_input_pipelines, context.input_pipeline_id).batch(2)

  own = strategy.distribute_datasets_from_function(numbers)
  found["input"] = np.concatenate([batch.numpy() for batch in own])
  whole = strategy.experimental_distribute_dataset(tf.data.Dataset.range(8).batch(4))
  found["rebatched"] = np.concatenate([batch.numpy() for batch in whole])


def main(folder):
  """Runs everything and writes what it gave."""
  strategy = horovod.strategy()
  import horovod.tensorflow as hvd

  rank, found = hvd.rank(), {}
  _types(strategy, found)
  _buckets(hvd, found)
  _shapes(strategy, rank, found)
  _variables(strategy, rank, found)
  _step(strategy, rank, found)
  _input(strategy, found)
  found["writes"] = np.array(strategy.extended.should_checkpoint)
  found["replicas"] = np.array(strategy.num_replicas_in_sync)
  found["half"] = found["half"].astype(np.float32)
  np.savez(pathlib.Path(folder) / f"{rank}.npz", **found)


if __name__ == "__main__":
  main(sys.argv[1])
