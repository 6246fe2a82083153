"""The exported program of a detector: images in; boxes, scores and classes out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import config_definitions as cfg

from mnv2_hpu import tfrecord
from mnv2_hpu.modeling import multibox
from mnv2_hpu.serving import image_module, preprocessing

BOXES, SCORES = "detection_boxes", "detection_scores"
CLASSES, COUNT = "detection_classes", "num_detections"

# TFLite's operation, which phones have, and the order of its outputs.
_POSTPROCESS = "TFLite_Detection_PostProcess"
_OUTPUTS = (BOXES, CLASSES, SCORES, COUNT)


class DetectionModule(image_module.ImageModule):
  """Returns the detections of each image, the best first, float32.

  * `detection_boxes`, `[batch, 100, 4]`: ymin, xmin, ymax, xmax in pixels of the image
    as it was given; in TFLite, and of preprocessed input, as fractions of it;
  * `detection_scores`, `[batch, 100]`, in [0, 1];
  * `detection_classes`, `[batch, 100]`: classes from 0 on, without a background;
  * `num_detections`, `[batch]`: after so many all is 0.

  In TFLite `TFLite_Detection_PostProcess` takes of each anchor the best class alone and
  suppresses boxes whatever their class. (Its other mode, class by class as SSD does, is
  wrong on several threads: it skips the class whose number is that of the threads, and
  they share a buffer.) It clips no box to the image; what comes after `num_detections`
  is undefined.
  """

  task_name = "detection"
  formats = (
    "saved_model",
    "tflite",
    "tflite_float16",
    "tflite_dynamic",
    "tflite_int8",
  )
  has_custom_ops = True
  has_float_outputs = False  # the operation's, not the network's

  @staticmethod
  def preprocessing_of(params: cfg.ExperimentConfig) -> preprocessing.Preprocessing:
    """See `ImageModule`."""
    return preprocessing.create_ssd(*params.task.model.input_size[:2])

  def describe(self) -> dict[str, Any]:
    """See `ImageModule`."""
    shape = f"float32 [batch, {multibox.MAX_DETECTIONS}"
    return {
      "outputs": {
        BOXES: f"{shape}, 4], ymin, xmin, ymax, xmax in pixels of the image; of tflite "
        "and preprocessed in fractions of it",
        SCORES: f"{shape}], descending",
        CLASSES: f"{shape}], index of the label name",
        COUNT: "float32 [batch]",
      },
      "data": {
        "input_path": self.params.task.validation_data.input_path,
        "image_field_key": tfrecord.IMAGE_KEY,
      },
    }

  def _predict(
    self, network_inputs: tf.Tensor, image_sizes: tf.Tensor
  ) -> Mapping[str, tf.Tensor]:
    boxes, scores, classes, counts = self.task.detect(self._raw(network_inputs))
    sides = tf.tile(tf.cast(image_sizes, tf.float32), [1, 2])
    return {
      BOXES: boxes * sides[:, tf.newaxis],
      SCORES: scores,
      CLASSES: classes,
      COUNT: tf.cast(counts, tf.float32),
    }

  @tf.function
  def as_tflite(self, inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Returns what TFLite's suppression makes of encoded images, strings `[batch]`.

    It is computed by TensorFlow, to tell what conversion costs from what that does.
    """
    network_inputs, image_sizes = self._decoded(inputs)
    raw, config = self._raw(network_inputs), self.params.task.model
    boxes = multibox.decode_boxes(raw["box_encodings"], self.task.anchors)
    scores = tf.sigmoid(raw["class_logits"])[..., 1:]
    best = tf.reduce_max(scores, axis=-1)
    rows, counts = tf.image.non_max_suppression_padded(
      boxes,
      best,
      multibox.MAX_DETECTIONS,
      iou_threshold=config.nms_iou_threshold,
      score_threshold=config.score_threshold,
      pad_to_max_output_size=True,
    )
    is_valid = tf.cast(tf.sequence_mask(counts, rows.shape[1]), tf.float32)
    labels = tf.argmax(tf.gather(scores, rows, batch_dims=1), axis=-1)
    sides = tf.tile(tf.cast(image_sizes, tf.float32), [1, 2])[:, tf.newaxis]
    corners = tf.clip_by_value(tf.gather(boxes, rows, batch_dims=1), 0.0, 1.0)
    return {
      BOXES: corners * sides * is_valid[..., tf.newaxis],
      SCORES: tf.gather(best, rows, batch_dims=1) * is_valid,
      CLASSES: tf.cast(labels, tf.float32) * is_valid,
      COUNT: tf.cast(counts, tf.float32),
    }

  def _raw(self, network_inputs: tf.Tensor) -> dict[str, tf.Tensor]:
    outputs = self.model(network_inputs, training=False)
    return {name: tf.cast(value, tf.float32) for name, value in outputs.items()}

  def _predict_for_tflite(self, network_inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
    raw, config = self._raw(network_inputs), self.params.task.model

    # The converter puts the operation of that name in its place.
    @tf.function(experimental_implements=_signature(config))
    def postprocess(*inputs: tf.Tensor) -> tuple[tf.Tensor, ...]:
      del inputs
      return tuple(tf.zeros([], name=name) for name in _OUTPUTS)

    corners = self.task.anchors
    begin, end = corners[:, :2], corners[:, 2:]
    centered = np.concatenate([(begin + end) / 2, end - begin], axis=1)
    outputs = postprocess(
      raw["box_encodings"],
      tf.sigmoid(raw["class_logits"]),
      tf.constant(centered, tf.float32),
    )
    return dict(zip(_OUTPUTS, outputs, strict=True))


def _signature(config: Any) -> str:
  """Returns TFLite's operation and its attributes, as the converter reads them."""
  scales = dict(
    zip(
      ("y_scale", "x_scale", "h_scale", "w_scale"),
      multibox.BOX_CODER_WEIGHTS,
      strict=True,
    )
  )
  attributes = {
    "max_detections": multibox.MAX_DETECTIONS,
    "max_classes_per_detection": 1,
    "detections_per_class": multibox.MAX_DETECTIONS,
    "use_regular_nms": False,
    "nms_score_threshold": float(config.score_threshold),
    "nms_iou_threshold": float(config.nms_iou_threshold),
    # One less than the columns of scores: the first, the background's, is left out.
    "num_classes": config.num_classes,
    **scales,
  }
  kinds = {bool: "b", int: "i", float: "f"}
  values = (
    f'attr {{ key: "{name}" value {{ {kinds[type(value)]}: {str(value).lower()} }} }}'
    for name, value in attributes.items()
  )
  return " ".join([f'name: "{_POSTPROCESS}"', *values])


def in_pixels(
  outputs: Mapping[str, np.ndarray], image_sizes: np.ndarray
) -> dict[str, np.ndarray]:
  """Returns what a SavedModel returns, of what TFLite's operation does.

  Args:
    outputs: Those of TFLite.
    image_sizes: Heights and widths of the images in pixels, `[batch, 2]`.
  """
  cut = {name: np.array(outputs[name]) for name in (SCORES, CLASSES, BOXES)}
  counts = outputs[COUNT].astype(int)
  for values in cut.values():  # behind the last one stands what was in memory
    values[np.arange(values.shape[1]) >= counts[:, np.newaxis]] = 0
  boxes = cut[BOXES].clip(0, 1) * np.tile(image_sizes, 2)[:, np.newaxis]
  return {**cut, BOXES: boxes.astype(np.float32), COUNT: outputs[COUNT]}
