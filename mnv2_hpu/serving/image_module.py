"""What the exported programs of all tasks share: images in, preprocessed."""

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import task_factory
from official.vision.serving import export_base

from mnv2_hpu.compat import keras
from mnv2_hpu.dataloaders import image_decoding
from mnv2_hpu.quantization import fake_quantization, network
from mnv2_hpu.serving import preprocessing

_PREPROCESSED = "preprocessed"


class ImageModule(export_base.ExportModule, abc.ABC):
  """Model Garden's module with the preprocessing of the run's evaluation inside.

  Its functions return what the task predicts of each image:

  * `inference_from_image_tensors`: uint8 `[batch, height, width, 3]`, any size;
  * `inference_from_image_bytes`: strings `[batch]`, encoded JPEG, PNG, BMP or GIF
    (its first frame), which may differ in size;
  * `inference_for_tflite`: float32 `[batch, height, width, 3]` of the network's input
    size, pixel values from 0 to 255. The caller crops and resizes;
  * `inference_from_preprocessed`: float32 `[batch, height, width, 3]`, the network's
    input itself: cropped, resized and scaled.

  Batch statistics are the moving ones; dropout is off.
  """

  # Name of the task, in `export.json`.
  task_name: ClassVar[str]
  # Names in `export.FORMATS` that it can be written in; None is all.
  formats: ClassVar[tuple[str, ...] | None] = None
  # Whether TFLite needs operations that are not among its builtin ones.
  has_custom_ops: ClassVar[bool] = False
  # Whether what TFLite returns are floats that its network computes.
  has_float_outputs: ClassVar[bool] = True

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
      params: Experiment with the task's config.
      batch_size: Batch size of the signatures; None leaves it open.
      input_type: Name of the input, as in Model Garden's exporter.
      model: Network; built by the task if None.
      significant_bits: Bits that encoded images of 16 bits per sample use.
    """
    self.significant_bits = significant_bits
    self.task = task_factory.get_task(params.task)
    self.preprocessing = self.preprocessing_of(params)
    super().__init__(
      params=params,
      batch_size=batch_size,
      input_image_size=[self.preprocessing.height, self.preprocessing.width],
      input_type=input_type,
      num_channels=params.task.model.input_size[2],
      model=model,
    )

  @staticmethod
  @abc.abstractmethod
  def preprocessing_of(params: cfg.ExperimentConfig) -> preprocessing.Preprocessing:
    """Returns what an experiment's evaluation does to an image before the network."""

  @abc.abstractmethod
  def describe(self) -> dict[str, Any]:
    """Returns what `export.json` says of this task: `outputs`, `data`, ….

    `outputs` says what the functions return, `data` how records are read.
    """

  @abc.abstractmethod
  def _predict(
    self, network_inputs: tf.Tensor, image_sizes: tf.Tensor
  ) -> Mapping[str, tf.Tensor]:
    """Returns the outputs.

    Args:
      network_inputs: float32 `[batch, height, width, 3]`.
      image_sizes: Height and width of the images in pixels, int32 `[batch, 2]`.
    """

  def _predict_for_tflite(self, network_inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Returns the outputs of the TFLite model."""
    return self._predict_preprocessed(network_inputs)

  def _predict_preprocessed(self, network_inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Returns the outputs where the network's input is the image."""
    sizes = tf.ones([tf.shape(network_inputs)[0], 2], tf.int32)
    return self._predict(network_inputs, sizes)

  def _build_model(self) -> keras.Model:
    return self.task.build_model()

  def serve(self, images: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Returns the outputs for uint8 images `[batch, height, width, 3]`, any size."""
    inputs = self._for_each(self.preprocessing.network_input, images)
    batch, height, width = tf.unstack(tf.shape(images)[:3])
    return self._predict(inputs, tf.tile([[height, width]], [batch, 1]))

  @tf.function
  def inference_from_image_bytes(self, inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Returns the outputs for encoded images, strings `[batch]`."""
    return self._predict(*self._decoded(inputs))

  def _decoded(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the network's inputs, and the sizes, of encoded images `[batch]`."""

    def preprocess(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
      image = image_decoding.decode_image(encoded, self.significant_bits)
      return self.preprocessing.network_input(image), tf.shape(image)[:2]

    return self._for_each(preprocess, inputs, tf.TensorSpec([2], tf.int32))

  @tf.function
  def inference_for_tflite(self, inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Returns the outputs for float32 pixels of the network's input size."""
    normalize = self.preprocessing.normalize
    if network.ranges(self.model):  # then TFLite computes this part in int8 too
      inputs = fake_quantization.quantize_pixels(inputs, normalize)
    else:
      inputs = normalize(inputs)
    return self._predict_for_tflite(inputs)

  def pixels(self, encoded: tf.Tensor) -> tf.Tensor:
    """Returns what the TFLite model takes of an encoded image, `[height, width, 3]`."""
    image = image_decoding.decode_image(encoded, self.significant_bits)
    return self.preprocessing.resize(image)

  @tf.function
  def inference_from_preprocessed(self, inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Returns the outputs for the network's input, which is the image."""
    return self._predict_preprocessed(inputs)

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
    self,
    preprocess: Callable[[tf.Tensor], Any],
    inputs: tf.Tensor,
    *others: tf.TensorSpec,
  ) -> Any:
    """Preprocesses one by one, since sizes may differ; on the host, as in training.

    Args:
      preprocess: From an image to the network's input, and to others, if any.
      inputs: Images, `[batch, ...]`.
      *others: What it returns besides.
    """
    shape = [*self._input_image_size, self._num_channels]
    spec = tf.TensorSpec(shape, tf.float32)
    with tf.device("cpu:0"):
      return tf.map_fn(
        preprocess,
        inputs,
        fn_output_signature=(spec, *others) if others else spec,
        parallel_iterations=32,
      )
