"""Object detection: SSDLite trained by Model Garden's step, judged as COCO does."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import task_factory
from official.vision.tasks import retinanet as upstream
from pycocotools import cocoeval

from mnv2_hpu.compat import keras
from mnv2_hpu.configs import object_detection as exp_cfg
from mnv2_hpu.dataloaders import detection_input
from mnv2_hpu.distribute import ranks
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import ssdlite
from mnv2_hpu.tasks import coco_metrics, training_task

COCO = "coco"  # what a validation step returns for the evaluator


@task_factory.register_task_cls(exp_cfg.ObjectDetectionTask)
class ObjectDetectionTask(training_task.TrainingTask, upstream.RetinaNetTask):
  """Model Garden's detection task with SSDLite's network, losses and input.

  Images are float32 `[batch, height, width, 3]` in [-1, 1], labels what
  `dataloaders.detection_input` gives.
  """

  def build_model(self) -> ssdlite.SSDLite:
    """Builds the network; its predictions are float32.

    Raises:
      UserError: If the backbone lacks an endpoint under the predictors.
    """
    backbone = self.build_backbone()
    config = self.task_config.model
    missing = {*ssdlite.BACKBONE_ENDPOINTS} - {*(backbone.output or {})}
    if missing:
      raise UserError(
        f"task.model.backbone (type {config.backbone.type!r}) has no endpoint "
        f"{sorted(missing)}, under SSDLite's predictors. Use mobilenet_v2 with "
        "output_intermediate_endpoints=True and output_stride=None."
      )
    norm = config.norm_activation
    model = ssdlite.SSDLite(
      backbone,
      config.num_classes,
      keras.layers.InputSpec(shape=[None, *config.input_size]),
      width_multiplier=config.backbone.get().width_multiplier,
      activation=norm.activation,
      use_sync_bn=norm.use_sync_bn,
      norm_momentum=norm.norm_momentum,
      norm_epsilon=norm.norm_epsilon,
      kernel_initializer=keras.initializers.TruncatedNormal(
        stddev=config.head_kernel_initializer_stddev
      ),
      kernel_regularizer=self.kernel_regularizer(),
    )
    if self.task_config.freeze_backbone:
      model.backbone.trainable = False
    return model

  @property
  def anchors(self) -> np.ndarray:
    """Anchors of the network's input size, `[anchors, 4]`."""
    return ssdlite.anchors(*self.task_config.model.input_size[:2])

  def _targets(self, labels: Mapping[str, tf.Tensor]) -> ssdlite.Targets:
    return ssdlite.assign_targets(
      self.anchors,
      labels["boxes"],
      labels["classes"] - 1,  # those of records start at 1
      self.task_config.model.num_classes,
    )

  def build_losses(
    self,
    outputs: Mapping[str, tf.Tensor],
    labels: Mapping[str, tf.Tensor],
    aux_losses: Sequence[tf.Tensor] | None = None,
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the losses of a replica: total, classification, box, without decay.

    Each is divided by the anchors matched on a replica on average, so that their mean
    over the replicas is the loss of one replica with all images.
    """
    targets = self._targets(labels)
    context = tf.distribute.get_replica_context()
    num_matched = context.all_reduce(
      tf.distribute.ReduceOp.SUM, tf.reduce_sum(targets.box_weights)
    )
    replicas = tf.cast(context.num_replicas_in_sync, tf.float32)
    box_loss, class_loss = ssdlite.multibox_loss(
      **outputs,
      targets=targets,
      anchors=self.anchors,
      num_matched=tf.maximum(num_matched, 1.0) / replicas,
    )
    model_loss = box_loss + class_loss
    decay = tf.cast(tf.add_n(aux_losses), tf.float32) if aux_losses else 0.0
    return model_loss + decay, class_loss, box_loss, model_loss

  def build_inputs(
    self,
    params: exp_cfg.DataConfig,
    input_context: tf.distribute.InputContext | None = None,
    start_step: int = 0,
    repeat: bool = False,
  ) -> tf.data.Dataset:
    """Builds the input of one worker; see `detection_input.build_dataset`."""
    return detection_input.build_dataset(
      params,
      tuple(self.task_config.model.input_size[:2]),
      self.task_config.model.num_classes + 1,
      input_context,
      start_step=start_step,
      repeat=repeat,
    )

  def check_inputs(self, train: bool, evaluate: bool) -> None:
    """Looks at the files and their first records, before anything is built on them.

    Raises:
      UserError: If files are missing or corrupt, or hold labels outside the classes.
    """
    config = self.task_config
    used = [config.train_data] * train + [config.validation_data] * evaluate
    for data in used:
      detection_input.check_input(
        data, tuple(config.model.input_size[:2]), config.model.num_classes + 1
      )

  def build_metrics(self, training: bool = True) -> list[keras.metrics.Metric]:
    """Returns means of the losses; in evaluation, of the whole set's."""
    names = (
      ("total_loss", "cls_loss", "box_loss", "model_loss")
      if training
      else ("validation_loss", "validation_cls_loss", "validation_box_loss")
    )
    return [keras.metrics.Mean(name, dtype=tf.float32) for name in names]

  def detect(
    self, outputs: Mapping[str, tf.Tensor]
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns boxes, scores, classes from 0 on and counts; see `multibox.postprocess`.

    Args:
      outputs: Raw predictions of a batch.
    """
    config = self.task_config.model
    return ssdlite.postprocess(
      **outputs,
      anchors=self.anchors,
      score_threshold=config.score_threshold,
      iou_threshold=config.nms_iou_threshold,
    )

  def validation_step(
    self,
    inputs: tuple[tf.Tensor, Any],
    model: keras.Model,
    metrics: list[keras.metrics.Metric] | None = None,
  ) -> dict[str, Any]:
    """Returns detections and boxes of a batch; updates the losses.

    A batch weighs as many as its matched anchors, so that the mean is the loss of all
    images as one batch.
    """
    images, labels = inputs
    outputs = {
      name: tf.cast(value, tf.float32)
      for name, value in self.inference_step(images, model).items()
    }
    targets = self._targets(labels)
    weight = tf.maximum(tf.reduce_sum(targets.box_weights), 1.0)
    box_loss, class_loss = ssdlite.multibox_loss(
      **outputs,
      targets=targets,
      anchors=self.anchors,
      image_weights=labels["image_weight"],
    )
    decay = tf.cast(tf.add_n(model.losses), tf.float32) if model.losses else 0.0
    losses = {
      "validation_loss": box_loss + class_loss + decay,
      "validation_cls_loss": class_loss,
      "validation_box_loss": box_loss,
    }
    for metric in metrics or ():
      metric.update_state(losses[metric.name], sample_weight=weight)
    boxes, scores, classes, _ = self.detect(outputs)
    image_size = labels["image_info"][:, 0]
    predictions = {
      "source_id": labels["groundtruths"]["source_id"],
      "detection_boxes": boxes * tf.tile(image_size, [1, 2])[:, None],
      "detection_scores": scores,
      "detection_classes": tf.cast(classes, tf.int32) + 1,
    }
    return {COCO: (labels["groundtruths"], predictions)}

  def aggregate_logs(self, state: Any = None, step_outputs: Any = None) -> list[Any]:
    """Collects what the steps of this process return, in host memory."""
    of_step = tf.nest.map_structure(np.asarray, _joined(step_outputs[COCO]))
    return [*(state or ()), of_step]

  def evaluate_logs(self, aggregated_logs: list[Any]) -> cocoeval.COCOeval:
    """Returns COCO's evaluation of the images of all ranks.

    Args:
      aggregated_logs: What `aggregate_logs` has collected.
    """
    strategy = tf.distribute.get_strategy()
    own = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *aggregated_logs)
    groundtruths, predictions = tf.nest.map_structure(
      lambda values: np.concatenate(ranks.gather(strategy, values)), own
    )
    is_image = groundtruths["source_id"] != detection_input.PADDING_SOURCE_ID
    return coco_metrics.evaluate(
      *(
        {name: values[is_image] for name, values in part.items()}
        for part in (groundtruths, predictions)
      )
    )

  def reduce_aggregated_logs(
    self, aggregated_logs: list[Any], global_step: tf.Tensor | None = None
  ) -> dict[str, np.ndarray]:
    """Returns COCO's metrics (AP, AP50, …) of the images of all ranks."""
    del global_step
    return coco_metrics.metrics(
      self.evaluate_logs(aggregated_logs), self.task_config.per_category_metrics
    )


def _joined(value: Any) -> Any:
  """Returns a nest of tensors, each the concatenation of those of local replicas."""
  if isinstance(value, Mapping):
    return {key: _joined(item) for key, item in value.items()}
  if isinstance(value, tuple) and all(tf.is_tensor(item) for item in value):
    return tf.concat(value, axis=0)
  return tuple(_joined(item) for item in value)
