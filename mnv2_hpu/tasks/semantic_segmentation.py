"""Semantic segmentation: DeepLab trained by Model Garden's step, judged by mean IoU."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import task_factory
from official.vision.tasks import semantic_segmentation as upstream

from mnv2_hpu.compat import keras
from mnv2_hpu.configs import semantic_segmentation as exp_cfg
from mnv2_hpu.dataloaders import segmentation_input
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import (
  deeplab,
  multi_scale,
  resize,
  segmentation_loss,
  stateless_dropout,
)
from mnv2_hpu.tasks import folded_inference, segmentation_metrics, training_task


@task_factory.register_task_cls(exp_cfg.SemanticSegmentationTask)
class SemanticSegmentationTask(
  training_task.TrainingTask, upstream.SemanticSegmentationTask
):
  """Model Garden's segmentation task with DeepLab's network, loss, input and metric.

  Images are float32 `[batch, height, width, 3]` in [-1, 1], labels what
  `dataloaders.segmentation_input` gives. Evaluation is at the images' own size.
  """

  def build_model(self) -> deeplab.DeepLab:
    """Builds the network; its logits are float32.

    Initial weights and dropout follow from `train_data.seed`.

    Raises:
      UserError: If the network is impossible.
    """
    backbone = self.build_backbone()
    config = self.task_config.model
    norm = config.head_norm_activation
    model = deeplab.DeepLab(
      backbone,
      config.num_classes,
      aspp=config.aspp,
      decoder=config.decoder,
      atrous_rates=config.atrous_rates,
      norm=deeplab.Norm(
        norm.activation, norm.norm_momentum, norm.norm_epsilon, norm.use_sync_bn
      ),
      fine_tune_batch_norm=config.fine_tune_batch_norm,
      dropout_rate=config.dropout_rate,
      channels=config.head_channels,
      kernel_regularizer=self.kernel_regularizer(),
    )
    stateless_dropout.make_dropout_stateless(model, self.task_config.train_data.seed)
    if self.task_config.freeze_backbone:
      model.backbone.trainable = False
    return model

  def train_step(
    self,
    inputs: tuple[tf.Tensor, Mapping[str, tf.Tensor]],
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    metrics: list[keras.metrics.Metric] | None = None,
  ) -> dict[str, tf.Tensor]:
    """Does Model Garden's step; remembers its number for hard pixels."""
    self._step = optimizer.iterations
    return super().train_step(inputs, model, optimizer, metrics)

  def build_losses(
    self,
    labels: Mapping[str, tf.Tensor],
    model_outputs: Mapping[str, tf.Tensor],
    aux_losses: Sequence[tf.Tensor] | None = None,
  ) -> tf.Tensor:
    """Returns the loss of a replica, weight decay included.

    It is divided by the pixels that count on a replica on average, so that the mean
    over the replicas is the loss of one replica with all images. Hard pixels are those
    of each replica.
    """
    config = self.task_config.losses
    losses, valid = self._pixel_losses(model_outputs["logits"], labels["masks"])
    if config.hard_pixel_share < 1:
      share = segmentation_loss.hard_pixel_share(
        config.hard_pixel_share, config.hard_pixel_ramp_steps, self._step
      )
      loss = segmentation_loss.hardest_pixels_loss(losses, share)
    else:
      context = tf.distribute.get_replica_context()
      num_valid = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(valid))
      replicas = tf.cast(context.num_replicas_in_sync, tf.float32)
      loss = segmentation_loss.mean_loss(losses, num_valid / replicas)
    decay = tf.cast(tf.add_n(aux_losses), loss.dtype) if aux_losses else 0.0
    return loss + decay

  def _pixel_losses(
    self, logits: tf.Tensor, masks: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    config = self.task_config.losses
    resized = segmentation_loss.at_size_of_labels(logits, masks, config.upsample_logits)
    return segmentation_loss.pixel_losses(
      *resized, config.ignore_label, config.class_weights
    )

  def _image_size(self, data: exp_cfg.DataConfig) -> tuple[int, int]:
    height, width = data.output_size or self.task_config.model.input_size[:2]
    return height, width

  def build_inputs(
    self,
    params: exp_cfg.DataConfig,
    input_context: tf.distribute.InputContext | None = None,
    start_step: int = 0,
    repeat: bool = False,
  ) -> tf.data.Dataset:
    """Builds the input of one worker; see `segmentation_input.build_dataset`."""
    return segmentation_input.build_dataset(
      params,
      self._image_size(params),
      self.task_config.model.num_classes,
      self.task_config.losses.ignore_label,
      input_context,
      start_step=start_step,
      repeat=repeat,
    )

  def check_inputs(self, train: bool, evaluate: bool) -> None:
    """Looks at the files and their first records, before anything is built on them.

    Raises:
      UserError: If a setting is impossible, if files are missing or corrupt, or if
        masks hold labels outside the classes.
    """
    config = self.task_config
    weights = config.losses.class_weights
    if weights and len(weights) != config.model.num_classes:
      raise UserError(
        f"task.losses.class_weights has {len(weights)} numbers; it must have one for "
        f"each of the {config.model.num_classes} classes, or none."
      )
    used = [config.train_data] * train + [config.validation_data] * evaluate
    for data in used:
      segmentation_input.check_input(
        data,
        self._image_size(data),
        config.model.num_classes,
        config.losses.ignore_label,
      )

  def build_metrics(self, training: bool = True) -> list[keras.metrics.Metric]:
    """Returns the mean IoU and the loss of an evaluation; nothing in training."""
    if training:
      return []
    config = self.task_config
    self._mean_iou = segmentation_metrics.MeanIoU(
      config.model.num_classes, config.losses.ignore_label
    )
    return [self._mean_iou, keras.metrics.Mean("validation_loss", dtype=tf.float32)]

  def predict(self, images: tf.Tensor, model: keras.Model) -> tf.Tensor:
    """Returns the class of each pixel, int32 `[batch, height, width]`.

    Args:
      images: The network's input, float32 `[batch, height, width, 3]`.
      model: Network.
    """
    if self._predicts_at_one_scale():
      return _classes(self.inference_step(images, model)["logits"], images)
    config = self.task_config.evaluation
    with folded_inference.folded_batch_norms(model):
      probabilities = multi_scale.mean_probabilities(
        model, images, config.scales, config.add_flipped_images
      )
    return tf.argmax(probabilities, -1, tf.int32)

  def _predicts_at_one_scale(self) -> bool:
    config = self.task_config.evaluation
    return list(config.scales) == [1.0] and not config.add_flipped_images

  def validation_step(
    self,
    inputs: tuple[tf.Tensor, Mapping[str, tf.Tensor]],
    model: keras.Model,
    metrics: list[keras.metrics.Metric] | None = None,
  ) -> dict[str, tf.Tensor]:
    """Updates the metrics by one batch; a batch weighs as many as its pixels."""
    images, labels = inputs
    predictions, loss, num_valid = self.predictions_and_loss(images, labels, model)
    for metric in metrics or ():
      if metric.name == "validation_loss":
        metric.update_state(loss, sample_weight=num_valid)
      else:
        metric.update_state(labels["masks"][..., 0], predictions)
    return {}

  def predictions_and_loss(
    self, images: tf.Tensor, labels: Mapping[str, tf.Tensor], model: keras.Model
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Judges a batch.

    Args:
      images: The network's input, float32 `[batch, height, width, 3]`.
      labels: Their `masks`, uint8 `[batch, height, width, 1]`.
      model: Network.

    Returns:
      The class of each pixel, int32 `[batch, height, width]`; the loss, weight decay
      included, and the number of pixels that it is the mean of, float32 scalars.
    """
    logits = self.inference_step(images, model)["logits"]
    losses, valid = self._pixel_losses(logits, labels["masks"])
    num_valid = tf.reduce_sum(valid)
    loss = segmentation_loss.mean_loss(losses, num_valid)
    loss = tf.add_n([loss, *model.losses])
    if self._predicts_at_one_scale():
      return _classes(logits, images), loss, num_valid
    return self.predict(images, model), loss, num_valid

  def aggregate_logs(self, state: Any = None, step_outputs: Any = None) -> Any:
    """Keeps nothing: the metrics have counted. Not None, so that the end is called."""
    del state, step_outputs
    return True

  def reduce_aggregated_logs(
    self, aggregated_logs: Any, global_step: tf.Tensor | None = None
  ) -> dict[str, np.ndarray]:
    """Returns the IoU of each class that the truth has, as `iou/<class>`."""
    del aggregated_logs, global_step
    if not self.task_config.evaluation.report_per_class_iou:
      return {}
    confusion = tf.convert_to_tensor(self._mean_iou.confusion).numpy()
    ious = segmentation_metrics.class_ious(confusion)
    return {f"iou/{c}": iou for c, iou in enumerate(ious) if not np.isnan(iou)}


def _classes(logits: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
  """Returns the class of each pixel of the images that logits are of."""
  size = images.shape[1], images.shape[2]
  return tf.argmax(resize.resize_bilinear(logits, size), -1, tf.int32)
