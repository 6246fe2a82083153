"""Image classification: Model Garden's task with this project's input and averaging."""

from typing import Any

import tensorflow as tf
from official.core import task_factory
from official.vision.configs import image_classification as upstream_cfg
from official.vision.tasks import image_classification as upstream

from mnv2_hpu.compat import keras
from mnv2_hpu.configs import image_classification as exp_cfg
from mnv2_hpu.dataloaders import (
  classification_input,
  inception_preprocessing,
  record_check,
)
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import classifier, stateless_dropout
from mnv2_hpu.tasks import training_task

# Fields of Model Garden's DataConfig that mean nothing to this project's input.
UNSUPPORTED_FIELDS = (
  "tfds_name",
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
class ImageClassificationTask(
  training_task.TrainingTask, upstream.ImageClassificationTask
):
  """Model Garden's classification task, with what slim's recipe needs beside it.

  Images are float32 `[batch, height, width, 3]`, labels int32 `[batch]`; a label of -1
  marks padding of the last evaluation batch and counts nowhere.
  """

  def build_model(self) -> keras.Model:
    """Builds the network; its pooling, dropout and logits compute in float32.

    Initial weights and dropout follow from `train_data.seed`.
    """
    config = self.task_config.model
    model = classifier.build_classifier(
      self.build_backbone(),
      config.num_classes,
      keras.layers.InputSpec(shape=[None, *config.input_size]),
      config.dropout_rate,
      self.kernel_regularizer(),
      has_auxiliary_logits=config.auxiliary_loss_weight > 0,
    )
    stateless_dropout.make_dropout_stateless(model, self.task_config.train_data.seed)
    if self.task_config.freeze_backbone:
      model.backbone.trainable = False
    return model

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
      record_check.check_input(
        data,
        classification_input.record_format(
          config.model.num_classes, data.image_field_key, data.label_field_key
        ),
      )

  def train_step(
    self,
    inputs: tuple[Any, tf.Tensor],
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    metrics: list[keras.metrics.Metric] | None = None,
  ) -> dict[str, tf.Tensor]:
    """Does a step on `(images, labels)`, finishing images that the host did not."""
    images, labels = inputs
    if self.task_config.train_data.preprocessing_options.preprocess_on_device:
      images = inception_preprocessing.finish_on_device(images)
    return super().train_step((images, labels), model, optimizer, metrics)

  def build_losses(
    self,
    labels: tf.Tensor,
    model_outputs: tf.Tensor | dict[str, tf.Tensor],
    aux_losses: Any = None,
  ) -> tf.Tensor:
    """Returns Model Garden's loss, and that of auxiliary logits by their weight.

    Args:
      labels: True classes as vectors, `[batch, num_classes]`.
      model_outputs: Logits of that shape, or both kinds of them by name.
      aux_losses: The model's losses, such as the weight decay.
    """
    if not isinstance(model_outputs, dict):
      return super().build_losses(labels, model_outputs, aux_losses)
    loss, auxiliary = (
      super(ImageClassificationTask, self).build_losses(labels, logits, losses)
      for logits, losses in (
        (model_outputs[classifier.LOGITS], aux_losses),
        (model_outputs[classifier.AUXILIARY_LOGITS], None),
      )
    )
    return loss + self.task_config.model.auxiliary_loss_weight * auxiliary

  def process_metrics(
    self, metrics: list[keras.metrics.Metric], labels: Any, model_outputs: Any
  ) -> None:
    """Updates the metrics, which look at the logits alone."""
    if isinstance(model_outputs, dict):
      model_outputs = model_outputs[classifier.LOGITS]
    super().process_metrics(metrics, labels, model_outputs)

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
