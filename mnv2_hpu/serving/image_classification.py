"""The exported program of a classifier: images in, logits and probabilities out."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg

from mnv2_hpu.serving import image_module, preprocessing


def preprocessing_of(params: cfg.ExperimentConfig) -> preprocessing.Preprocessing:
  """Returns what an experiment's evaluation does to an image before the network."""
  height, width, _ = params.task.model.input_size
  data = params.task.validation_data
  return preprocessing.create(
    data.preprocessing, height, width, data.preprocessing_options
  )


class ClassificationModule(image_module.ImageModule):
  """Returns float32 `logits` and `probs`, `[batch, num_classes]`, of each image."""

  task_name = "classification"
  preprocessing_of = staticmethod(preprocessing_of)

  def describe(self) -> dict[str, Any]:
    """See `ImageModule`."""
    num_classes = self.params.task.model.num_classes
    data = self.params.task.validation_data
    return {
      "outputs": {
        "logits": f"float32 [batch, {num_classes}]",
        "probs": f"float32 [batch, {num_classes}], softmax of the logits",
      },
      "data": {
        "input_path": data.input_path,
        "image_field_key": data.image_field_key,
        "label_field_key": data.label_field_key,
      },
    }

  def _predict(
    self, network_inputs: tf.Tensor, image_sizes: tf.Tensor
  ) -> Mapping[str, tf.Tensor]:
    del image_sizes
    logits = tf.cast(self.model(network_inputs, training=False), tf.float32)
    return {"logits": logits, "probs": tf.nn.softmax(logits)}
