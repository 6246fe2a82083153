"""The exported program of a segmenter: images in, the class of each pixel out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import config_definitions as cfg

from mnv2_hpu import tfrecord
from mnv2_hpu.modeling import resize
from mnv2_hpu.modeling.segmentation_loss import IGNORE_LABEL
from mnv2_hpu.serving import image_module, preprocessing

MASKS, SIZES = "masks", "image_sizes"


class SegmentationModule(image_module.ImageModule):
  """Returns the class of each pixel of each image.

  * `masks`, uint8 `[batch, height, width]`: of the size of the image as it was given.
    Images of a batch may differ in size: masks are padded with 255 below and at the
    right to the largest of them. Of preprocessed input, and of TFLite, they have the
    network's size;
  * `image_sizes`, int32 `[batch, 2]`: height and width of each image in pixels. TFLite
    does not return them.

  The network looks once, at scale 1, whatever scales the run's evaluation averages.
  """

  task_name = "segmentation"
  formats = (
    "saved_model",
    "tflite",
    "tflite_float16",
    "tflite_dynamic",
    "tflite_int8",
  )
  has_float_outputs = False

  @staticmethod
  def preprocessing_of(params: cfg.ExperimentConfig) -> preprocessing.Preprocessing:
    """See `ImageModule`; the size is that to which evaluation pads."""
    task = params.task
    height, width = task.validation_data.output_size or task.model.input_size[:2]
    return preprocessing.create_deeplab(height, width)

  def describe(self) -> dict[str, Any]:
    """See `ImageModule`."""
    height, width = self.preprocessing.height, self.preprocessing.width
    return {
      "outputs": {
        MASKS: "uint8 [batch, height, width], index of the label name of each pixel "
        "(argmax of the logits at the network's size), of the images' own size, padded "
        f"with {IGNORE_LABEL} to the largest of the batch; of tflite and preprocessed "
        f"[batch, {height}, {width}], the network's size, padding included",
        SIZES: "int32 [batch, 2], height and width of each image; of saved_model",
      },
      "data": {
        "input_path": self.params.task.validation_data.input_path,
        "image_field_key": tfrecord.IMAGE_KEY,
        "mask_field_key": tfrecord.MASK_KEY,
        "ignore_label": self.params.task.losses.ignore_label,
      },
    }

  def _predict(
    self, network_inputs: tf.Tensor, image_sizes: tf.Tensor
  ) -> Mapping[str, tf.Tensor]:
    masks = self._masks(network_inputs)
    return {MASKS: at_image_sizes(masks, image_sizes), SIZES: image_sizes}

  def _predict_preprocessed(self, network_inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
    return {MASKS: self._masks(network_inputs)}

  def _predict_for_tflite(self, network_inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
    logits = self.model(network_inputs, training=False)["logits"]
    # An operation of TFLite's own, which equals `resize_bilinear`.
    resized = tf.compat.v1.image.resize_bilinear(
      logits, network_inputs.shape[1:3], align_corners=True
    )
    return {MASKS: _argmax(resized)}

  def _masks(self, network_inputs: tf.Tensor) -> tf.Tensor:
    logits = self.model(network_inputs, training=False)["logits"]
    return _argmax(resize.resize_bilinear(logits, tuple(network_inputs.shape[1:3])))


def _argmax(logits: tf.Tensor) -> tf.Tensor:
  return tf.cast(tf.argmax(logits, -1, tf.int32), tf.uint8)


def at_image_sizes(masks: tf.Tensor, image_sizes: tf.Tensor) -> tf.Tensor:
  """Returns masks of the sizes of their images, as `Deeplab.resize` has changed them.

  Args:
    masks: Of the network's size, uint8 `[batch, height, width]`.
    image_sizes: Heights and widths of the images, int32 `[batch, 2]`.

  Returns:
    uint8 `[batch, maximum height, maximum width]`, padded with 255.
  """
  network_size = tf.shape(masks)[1:]
  largest = tf.reduce_max(image_sizes, axis=0)

  def one(mask_and_size: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    mask, size = mask_and_size
    fitted = preprocessing.fitted_size(size, network_size)
    for axis in range(2):
      mask = tf.gather(mask, _nearest(fitted[axis], size[axis]), axis=axis)
    padding = tf.stack([tf.zeros_like(size), largest - size], axis=1)
    return tf.pad(mask, padding, constant_values=tf.constant(IGNORE_LABEL, tf.uint8))

  spec = tf.TensorSpec([None, None], tf.uint8)
  return tf.map_fn(one, (masks, image_sizes), fn_output_signature=spec)


def _nearest(source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Returns the source row below the center of each target row; of as many, itself."""
  scale = tf.cast(source, tf.float32) / tf.cast(target, tf.float32)
  rows = (tf.range(tf.cast(target, tf.float32)) + 0.5) * scale
  return tf.minimum(tf.cast(rows, tf.int32), source - 1)


def in_pixels(
  outputs: Mapping[str, np.ndarray], image_sizes: np.ndarray
) -> dict[str, np.ndarray]:
  """Returns what a SavedModel returns, of what TFLite does.

  Args:
    outputs: Those of TFLite.
    image_sizes: Heights and widths of the images in pixels, int32 `[batch, 2]`.
  """
  masks = at_image_sizes(tf.constant(outputs[MASKS]), tf.constant(image_sizes))
  return {MASKS: masks.numpy(), SIZES: image_sizes}
