"""What the tasks of this project share: start, step, optimizer, whole evaluations."""

import os
from typing import Any

import tensorflow as tf
from official.core import base_task
from official.core import config_definitions as cfg
from official.vision.modeling import backbones

from mnv2_hpu import cluster
from mnv2_hpu.checkpoints import import_record, restore
from mnv2_hpu.compat import keras
from mnv2_hpu.dataloaders import input_pipeline
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import stateless_dropout
from mnv2_hpu.optimization import exponential_moving_average, learning_rate_multiplier
from mnv2_hpu.tasks import batch_halves, folded_inference


class TrainingTask(base_task.Task):
  """Base of the tasks, to be named before Model Garden's among the bases.

  `params.model` has `backbone`, `input_size` and `norm_activation`, `params.losses` has
  `l2_weight_decay`; the model that `build_model` returns has `backbone`.
  """

  def __init__(
    self,
    params: Any,
    logging_dir: str | None = None,
    name: str | None = None,
  ) -> None:
    """Checks the checkpoint that a run without one of its own would start from.

    Args:
      params: The configuration.
      logging_dir: The folder of the run; None where there is none.
      name: Name of the task.

    Raises:
      UserError: If `init_checkpoint` cannot be read.
    """
    super().__init__(params, logging_dir, name)
    starts = logging_dir and not tf.train.latest_checkpoint(logging_dir)
    if params.init_checkpoint and starts and cluster.rank(os.environ) == 0:
      restore.check_init_checkpoint(params.init_checkpoint)
      backbone = params.model.backbone.get()
      import_record.check_agrees(
        params.init_checkpoint,
        use_explicit_padding=getattr(backbone, "use_explicit_padding", False),
        norm_epsilon=params.model.norm_activation.norm_epsilon,
      )

  def kernel_regularizer(self) -> keras.regularizers.Regularizer | None:
    """Returns that of convolution kernels: Keras' l2(x) is twice slim's."""
    decay = self.task_config.losses.l2_weight_decay
    return keras.regularizers.l2(decay / 2.0) if decay else None

  def build_backbone(self) -> keras.Model:
    """Builds the configured backbone; sets the seed of all initial weights."""
    # TensorFlow's seed alone does not reach Keras' initializers.
    keras.utils.set_random_seed(self.task_config.train_data.seed)
    config = self.task_config.model
    return backbones.factory.build_backbone(
      input_specs=keras.layers.InputSpec(shape=[None, *config.input_size]),
      backbone_config=config.backbone,
      norm_activation_config=config.norm_activation,
      l2_regularizer=self.kernel_regularizer(),
    )

  def added_variables(self, model: keras.Model) -> list[tf.Variable]:
    """Returns variables of a model that `init_checkpoint` need not have."""
    del model
    return []

  def train_step(
    self,
    inputs: Any,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    metrics: list[keras.metrics.Metric] | None = None,
  ) -> dict[str, tf.Tensor]:
    """Does Model Garden's step, with its dropout and the backbone's learning rate."""
    if self.task_config.backbone_learning_rate_multiplier != 1:
      learning_rate_multiplier.multiply_learning_rate(
        getattr(optimizer, "base_optimizer", optimizer),
        model.backbone.trainable_variables,
        self.task_config.backbone_learning_rate_multiplier,
      )
    with stateless_dropout.dropout_step(optimizer.iterations):
      return super().train_step(inputs, model, optimizer, metrics)

  def inference_step(self, inputs: Any, model: keras.Model) -> Any:
    """Returns what the network computes in inference, its batch norms folded.

    Args:
      inputs: float32 images, `[batch, height, width, 3]`.
      model: Network.
    """
    with folded_inference.folded_batch_norms(model):
      return batch_halves.infer(inputs, model)

  def initialize(self, model: keras.Model) -> None:
    """Reads `init_checkpoint`, if there is one; see `checkpoints.restore`.

    Raises:
      UserError: If it does not fit the network.
    """
    config = self.task_config
    if not config.init_checkpoint:
      return
    modules = config.init_checkpoint_modules
    try:
      line = restore.restore_start(
        model, config.init_checkpoint, modules, optional=self.added_variables(model)
      )
    except restore.BrokenWeightsError as error:
      raise UserError(f"init_checkpoint: {error}") from error
    except (ValueError, tf.errors.OpError) as error:
      raise UserError(
        f"init_checkpoint is {config.init_checkpoint!r}: its weights ({modules}) do "
        f"not fit this network ({str(error).splitlines()[0]}). Use the "
        "width_multiplier and num_classes it was trained with, or "
        'init_checkpoint_modules = "fitting" where only num_classes differs.'
      ) from error
    print(line, flush=True)

  @classmethod
  def create_optimizer(
    cls,
    optimizer_config: cfg.OptimizationConfig,
    runtime_config: cfg.RuntimeConfig | None = None,
    dp_config: Any = None,
  ) -> keras.optimizers.Optimizer:
    """Builds the optimizer, wrapped by this project's moving average if configured."""
    return exponential_moving_average.wrap_with_moving_average(
      super().create_optimizer(
        optimizer_config.replace(ema=None), runtime_config, dp_config
      ),
      optimizer_config.ema,
    )

  def evaluation_steps(
    self, params: cfg.DataConfig, num_pipelines: int, num_replicas: int
  ) -> int:
    """Returns the steps in which an evaluation sees each image once.

    Args:
      params: The data config of the evaluation.
      num_pipelines: Number of input pipelines: one for each process.
      num_replicas: Number of replicas of all processes.
    """
    return input_pipeline.evaluation_steps(
      input_pipeline.count_examples(params),
      params.global_batch_size,
      tf.distribute.InputContext(num_pipelines, 0, num_replicas),
    )
