"""Tasks whose network rounds as its int8 export does: all else is the float ones'."""

import tensorflow as tf
from official.core import task_factory

from mnv2_hpu.compat import keras
from mnv2_hpu.configs import quantization as exp_cfg
from mnv2_hpu.quantization import network
from mnv2_hpu.tasks import (
  image_classification,
  object_detection,
  semantic_segmentation,
  training_task,
)


class QuantizationAwareTask(training_task.TrainingTask):
  """Base of the tasks, to be named before the float one among the bases."""

  def build_model(self) -> keras.Model:
    """Builds the float network, then makes it round (`quantization.network`)."""
    model = super().build_model()
    network.quantize(model, self.task_config.freeze_batch_norm_step)
    return model

  def added_variables(self, model: keras.Model) -> list[tf.Variable]:
    """Returns the ranges, which a float run has not."""
    return network.ranges(model)


@task_factory.register_task_cls(exp_cfg.ImageClassificationQATTask)
class ImageClassificationQATTask(
  QuantizationAwareTask, image_classification.ImageClassificationTask
):
  """Classification in int8."""


@task_factory.register_task_cls(exp_cfg.ObjectDetectionQATTask)
class ObjectDetectionQATTask(
  QuantizationAwareTask, object_detection.ObjectDetectionTask
):
  """Detection in int8."""


@task_factory.register_task_cls(exp_cfg.SemanticSegmentationQATTask)
class SemanticSegmentationQATTask(
  QuantizationAwareTask, semantic_segmentation.SemanticSegmentationTask
):
  """Segmentation in int8."""
