"""A run's network with the weights of a checkpoint, ready to be judged."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import orbit
import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import task_factory
from official.modeling import performance

from mnv2_hpu.checkpoints import restore
from mnv2_hpu.compat import keras
from mnv2_hpu.dataloaders import input_pipeline
from mnv2_hpu.distribute import strategies
from mnv2_hpu.progress import Progress


@dataclasses.dataclass(frozen=True)
class RestoredModel:
  """A network, its weights read.

  Attributes:
    strategy: Strategy in whose scope it was built.
    task: Its task.
    model: The network.
    restored: Checkpoint, and which of its weights.
    data: Validation data of the run.
  """

  strategy: tf.distribute.Strategy
  task: Any
  model: keras.Model
  restored: restore.RestoredCheckpoint
  data: Any

  @property
  def num_images(self) -> int:
    """Images of the validation data."""
    return input_pipeline.count_examples(self.data)

  def run(self, on_replica: Callable[[Any], Any]) -> Iterator[Any]:
    """Yields what a function makes of each batch, and shows the progress.

    Args:
      on_replica: From a batch of one replica to a nest of tensors.

    Yields:
      That nest, with a tuple of the local replicas' tensors in the place of each.
    """
    batches = orbit.utils.make_distributed_dataset(
      self.strategy, self.task.build_inputs, self.data
    )

    @tf.function
    def step(inputs: Any) -> Any:
      return self.strategy.run(on_replica, args=(inputs,))

    total = self.num_images
    with Progress(total, "image", "evaluate") as progress:
      for number, inputs in enumerate(batches, 1):
        yield tf.nest.map_structure(
          self.strategy.experimental_local_results, step(inputs)
        )
        progress.update_to(min(total, number * self.data.global_batch_size))


def restore_model(
  params: cfg.ExperimentConfig,
  checkpoint: str,
  weights: str,
  distribution_strategy: str | None,
) -> RestoredModel:
  """Builds the network of an experiment and reads its weights.

  Args:
    params: Experiment that it was trained with.
    checkpoint: Prefix of its files, or a folder: its newest checkpoint.
    weights: `"ema"` or `"raw"`.
    distribution_strategy: Name of the strategy; the training's if None.

  Raises:
    UserError: If the checkpoint cannot serve, or the data cannot be read.
  """
  performance.set_mixed_precision_policy(params.runtime.mixed_precision_dtype)
  strategy = strategies.get_distribution_strategy(
    distribution_strategy or params.runtime.distribution_strategy,
    num_gpus=params.runtime.num_gpus,
  )
  data = params.task.validation_data
  with strategy.scope():
    task = task_factory.get_task(params.task)
    task.check_inputs(train=False, evaluate=True)
    replicas = strategy.num_replicas_in_sync
    # A larger batch would be padding.
    largest = -(-input_pipeline.count_examples(data) // replicas) * replicas
    batch_size = min(data.global_batch_size, largest)
    # Each image is read once.
    data.override({"cache": False, "global_batch_size": batch_size})
    model = task.build_model()
    restored = restore.restore_weights(model, checkpoint, weights)
  return RestoredModel(strategy, task, model, restored, data)
