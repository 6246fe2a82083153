"""The program that is exported: images in, logits and probabilities out."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import task_factory
from official.vision.serving import image_classification as upstream

from mnv2_hpu.compat import keras
from mnv2_hpu.dataloaders import image_decoding
from mnv2_hpu.serving import preprocessing

_PREPROCESSED = "preprocessed"


def preprocessing_of(params: cfg.ExperimentConfig) -> preprocessing.Preprocessing:
  """Returns what an experiment's evaluation does to an image before the network."""
  height, width, _ = params.task.model.input_size
  data = params.task.validation_data
  return preprocessing.create(
    data.preprocessing, height, width, data.preprocessing_options
  )


class ClassificationModule(upstream.ClassificationModule):
  """Model Garden's module with the preprocessing of the run's evaluation inside.

  Its functions return float32 `logits` and `probs`, `[batch, num_classes]`:

  * `inference_from_image_tensors`: uint8 `[batch, height, width, 3]`, any size;
  * `inference_from_image_bytes`: strings `[batch]`, encoded JPEG, PNG, BMP or GIF
    (its first frame), which may differ in size;
  * `inference_for_tflite`: float32 `[batch, height, width, 3]` of the network's input
    size, pixel values from 0 to 255. The caller crops and resizes;
  * `inference_from_preprocessed`: float32 `[batch, height, width, 3]`, the network's
    input itself: cropped, resized and scaled.

  Batch statistics are the moving ones; dropout is off.
  """

  def __init__(
    self,
    params: cfg.ExperimentConfig,
    *,
    batch_size: int | None = None,
    input_type: str = "image_tensor",
    model: keras.Model | None = None,
    significant_bits: int = 16,
  ) -> None:
    """Builds the module.

    Args:
      params: Experiment, whose task has an `ImageClassificationTask` config.
      batch_size: Batch size of the signatures; None leaves it open.
      input_type: Name of the input, as in Model Garden's exporter.
      model: Network; built by the task if None.
      significant_bits: Bits that encoded images of 16 bits per sample use.
    """
    self.significant_bits = significant_bits
    height, width, channels = params.task.model.input_size
    self.preprocessing = preprocessing_of(params)
    super().__init__(
      params=params,
      batch_size=batch_size,
      input_image_size=[height, width],
      input_type=input_type,
      num_channels=channels,
      model=model,
    )

  def _build_model(self) -> keras.Model:
    return task_factory.get_task(self.params.task).build_model()

  def serve(self, images: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Returns the outputs for uint8 images `[batch, height, width, 3]`, any size."""
    return self._classify(self._for_each(self.preprocessing.network_input, images))

  @tf.function
  def inference_from_image_bytes(self, inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Returns the outputs for encoded images, strings `[batch]`."""

    def preprocess(encoded: tf.Tensor) -> tf.Tensor:
      image = image_decoding.decode_image(encoded, self.significant_bits)
      return self.preprocessing.network_input(image)

    return self._classify(self._for_each(preprocess, inputs))

  @tf.function
  def inference_for_tflite(self, inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Returns the outputs for float32 pixels of the network's input size."""
    return self._classify(self.preprocessing.normalize(inputs))

  def pixels(self, encoded: tf.Tensor) -> tf.Tensor:
    """Returns what the TFLite model takes of an encoded image, `[height, width, 3]`."""
    image = image_decoding.decode_image(encoded, self.significant_bits)
    return self.preprocessing.resize(image)

  @tf.function
  def inference_from_preprocessed(self, inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Returns the outputs for the network's input."""
    return self._classify(inputs)

  def get_inference_signatures(
    self, function_keys: Mapping[str, str]
  ) -> dict[str, Callable[..., Any]]:
    """Returns concrete functions by the name of their signature.

    Args:
      function_keys: Names of signatures by function: Model Garden's `image_tensor`,
        `image_bytes`, `tflite`, and `preprocessed`.
    """
    upstream_keys = {k: v for k, v in function_keys.items() if k != _PREPROCESSED}
    signatures = super().get_inference_signatures(upstream_keys)
    if _PREPROCESSED in function_keys:
      shape = [self._batch_size, *self._input_image_size, self._num_channels]
      function = self.inference_from_preprocessed.get_concrete_function(
        tf.TensorSpec(shape, tf.float32)
      )
      signatures[function_keys[_PREPROCESSED]] = function
    return signatures

  def _for_each(
    self, preprocess: Callable[[tf.Tensor], tf.Tensor], inputs: tf.Tensor
  ) -> tf.Tensor:
    """Preprocesses one by one, since sizes may differ; on the host, as in training."""
    shape = [*self._input_image_size, self._num_channels]
    with tf.device("cpu:0"):
      return tf.map_fn(
        preprocess,
        inputs,
        fn_output_signature=tf.TensorSpec(shape, tf.float32),
        parallel_iterations=32,
      )

  def _classify(self, network_inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
    logits = tf.cast(self.model(network_inputs, training=False), tf.float32)
    return {"logits": logits, "probs": tf.nn.softmax(logits)}
