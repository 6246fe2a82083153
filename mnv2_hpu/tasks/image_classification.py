"""Image classification: Model Garden's task with this project's input and averaging."""

import os
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import task_factory
from official.vision.configs import image_classification as upstream_cfg
from official.vision.modeling import backbones, classification_model
from official.vision.tasks import image_classification as upstream

from mnv2_hpu import cluster
from mnv2_hpu.checkpoints import import_record, restore
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import image_classification as exp_cfg
from mnv2_hpu.dataloaders import (
  classification_input,
  record_check,
  record_files,
)
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import precision, stateless_dropout
from mnv2_hpu.optimization import exponential_moving_average, learning_rate_multiplier

# Fields of Model Garden's DataConfig that mean nothing to this project's input.
UNSUPPORTED_FIELDS = (
  "tfds_name",
  "enable_tf_data_service",
  "file_type",
  "is_multilabel",
  "aug_crop",
  "aug_rand_hflip",
  "center_crop_fraction",
  "aug_type",
  "three_augment",
  "color_jitter",
  "random_erasing",
  "mixup_and_cutmix",
  "repeated_augment",
  "tf_resize_method",
)


@task_factory.register_task_cls(exp_cfg.ImageClassificationTask)
class ImageClassificationTask(upstream.ImageClassificationTask):
  """Model Garden's classification task, with what slim's recipe needs beside it.

  Images are float32 `[batch, height, width, 3]`, labels int32 `[batch]`; a label of -1
  marks padding of the last evaluation batch and counts nowhere.
  """

  def __init__(
    self,
    params: exp_cfg.ImageClassificationTask,
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

  def build_model(self) -> keras.Model:
    """Builds the network; its pooling, dropout and logits compute in float32.

    Initial weights and dropout follow from `train_data.seed`.
    """
    # TensorFlow's seed alone does not reach Keras' initializers.
    keras.utils.set_random_seed(self.task_config.train_data.seed)
    config = self.task_config.model
    decay = self.task_config.losses.l2_weight_decay
    # Keras' l2(x) is x times the sum of squares; slim's is half of that.
    regularizer = keras.regularizers.l2(decay / 2.0) if decay else None
    input_specs = keras.layers.InputSpec(shape=[None, *config.input_size])
    backbone = backbones.factory.build_backbone(
      input_specs=input_specs,
      backbone_config=config.backbone,
      norm_activation_config=config.norm_activation,
      l2_regularizer=regularizer,
    )
    stddev = config.backbone.get().kernel_initializer_stddev
    with precision.float32_policy():
      model = classification_model.ClassificationModel(
        backbone=backbone,
        num_classes=config.num_classes,
        input_specs=input_specs,
        dropout_rate=config.dropout_rate,
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=stddev),
        kernel_regularizer=regularizer,
      )
    stateless_dropout.make_dropout_stateless(model, self.task_config.train_data.seed)
    if self.task_config.freeze_backbone:
      model.backbone.trainable = False
    return model

  def train_step(
    self,
    inputs: tuple[tf.Tensor, tf.Tensor],
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
      line = restore.restore_start(model, config.init_checkpoint, modules)
    except (ValueError, tf.errors.OpError) as error:
      raise UserError(
        f"init_checkpoint is {config.init_checkpoint!r}: its {modules} does not fit "
        f"this network ({str(error).splitlines()[0]}). Use the width_multiplier and "
        "num_classes it was trained with, or "
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

  def build_inputs(
    self,
    params: exp_cfg.DataConfig,
    input_context: tf.distribute.InputContext | None = None,
    start_step: int = 0,
    repeat: bool = False,
  ) -> tf.data.Dataset:
    """Builds the input of one worker; see `classification_input.build_dataset`."""
    model = self.task_config.model
    return classification_input.build_dataset(
      params,
      (model.input_size[0], model.input_size[1]),
      model.num_classes,
      input_context,
      start_step=start_step,
      repeat=repeat,
    )

  def evaluation_steps(
    self, params: exp_cfg.DataConfig, num_pipelines: int, num_replicas: int
  ) -> int:
    """Returns the steps in which an evaluation sees each image once.

    Args:
      params: The data config of the evaluation.
      num_pipelines: Number of input pipelines: one for each process.
      num_replicas: Number of replicas of all processes.
    """
    return classification_input.evaluation_steps(
      classification_input.count_examples(params),
      params.global_batch_size,
      tf.distribute.InputContext(num_pipelines, 0, num_replicas),
    )

  def _check_fields(self) -> None:
    """Refuses fields of Model Garden's that this task's input would ignore."""
    stock = upstream_cfg.DataConfig()
    for name in ("train_data", "validation_data"):
      data = getattr(self.task_config, name)
      changed = [f for f in UNSUPPORTED_FIELDS if getattr(data, f) != getattr(stock, f)]
      if changed:
        raise UserError(
          f"task.{name}.{changed[0]} is {getattr(data, changed[0])!r}, which "
          "mobilenet_v2_classification does not use. Leave it at "
          f"{getattr(stock, changed[0])!r}, or use Model Garden's own experiments with "
          "task.model.backbone.type=mobilenet_v2."
        )

  def check_inputs(self, train: bool, evaluate: bool) -> None:
    """Looks at the files and their first records, before anything is built on them.

    Raises:
      UserError: If files are missing or corrupt, or hold labels outside the classes.
    """
    self._check_fields()
    config = self.task_config
    height, width = config.model.input_size[:2]
    used = [config.train_data] * train + [config.validation_data] * evaluate
    for data in used:
      data.check((height, width), config.model.num_classes)
      record_check.check_records(
        record_files.match_files(data.input_path),
        config.model.num_classes,
        num_examples=data.num_examples or None,
        max_corrupt_records=data.max_corrupt_records if data.is_training else 0,
        image_key=data.image_field_key,
        label_key=data.label_field_key,
      )

  def build_metrics(self, training: bool = True) -> list[keras.metrics.Metric]:
    """Top-1 and top-k accuracy; for evaluation also the loss, weighted by example."""
    metrics = super().build_metrics(training)
    if not training:
      metrics.append(keras.metrics.Mean("validation_loss"))
    return metrics

  def validation_step(
    self,
    inputs: tuple[tf.Tensor, tf.Tensor],
    model: keras.Model,
    metrics: list[keras.metrics.Metric] | None = None,
  ) -> dict[str, tf.Tensor]:
    """Updates the metrics by one batch in which padding weighs nothing.

    The loss is a metric here, not a log: Model Garden would average it over batches,
    whose real sizes differ.
    """
    images, labels = inputs
    weights = tf.cast(labels >= 0, tf.float32)
    one_hot = tf.one_hot(labels, self.task_config.model.num_classes)
    logits, loss = self.logits_and_losses(images, labels, model)
    for metric in metrics or ():
      if metric.name == "validation_loss":
        metric.update_state(loss, sample_weight=weights)
      else:
        metric.update_state(one_hot, logits, sample_weight=weights)
    return {}

  def logits_and_losses(
    self, images: tf.Tensor, labels: tf.Tensor, model: keras.Model
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what an evaluation looks at, float32.

    Args:
      images: The network's input, float32 `[batch, height, width, 3]`.
      labels: True classes, int32 `[batch]`.
      model: Network.

    Returns:
      Logits, `[batch, num_classes]`, and the loss of each image, `[batch]`, weight
      decay included.
    """
    logits = tf.cast(self.inference_step(images, model), tf.float32)
    losses = keras.losses.categorical_crossentropy(
      tf.one_hot(labels, self.task_config.model.num_classes),
      logits,
      from_logits=True,
      label_smoothing=self.task_config.losses.label_smoothing,
    )
    return logits, losses + tf.add_n(model.losses) if model.losses else losses
