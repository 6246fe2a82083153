"""The input of object detection: a record to an image and its padded boxes.

Records have the keys of Model Garden's `TfExampleDecoder`: boxes are fractions of the
image, labels of boxes start at 1, for 0 is the background. An image is resized to
exactly the network's size, its aspect ratio is not kept, as TensorFlow 1's SSD did it.
Which records are read, and all else that is no detector's own, is `input_pipeline`'s
part; what training does to an image and its boxes `ssd_preprocessing`'s.

Boxes without area are dropped. So are, in training and from the validation loss, crowds
(the TF Object Detection API trains on them as on other boxes): a box around many
objects is no example of one. The evaluator gets them, and ignores what matches them.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg
from official.vision.dataloaders import tf_example_decoder
from official.vision.dataloaders import utils as upstream_utils
from official.vision.ops import box_ops, preprocess_ops

from mnv2_hpu import detection_record, errors, tfrecord
from mnv2_hpu.dataloaders import (
  corrupt_records,
  image_decoding,
  input_fields,
  input_pipeline,
  record_check,
  ssd_preprocessing,
)

PADDING_CLASS = -1
PADDING_SOURCE_ID = -1
MIN_IMAGE_SIZE = 32  # pixels: below, no level but the finest has more than one cell

Labels = dict[str, Any]

# Numbers that a 64-bit float tells apart, in which a `source_id` may be kept.
_MAX_SOURCE_ID = 2**53


def build_dataset(
  data: cfg.DataConfig,
  image_size: tuple[int, int],
  num_classes: int,
  input_context: tf.distribute.InputContext | None = None,
  *,
  start_step: int = 0,
  repeat: bool = False,
) -> tf.data.Dataset:
  """Builds the dataset of one input pipeline; see `input_pipeline.build_dataset`.

  Args:
    data: Model Garden's fields of an input, `InputFields`, `num_examples`, and
      `preprocessing_options`, which are `DetectionOptions`.
    image_size: Height and width of the network's input in pixels.
    num_classes: Number of classes, background included: labels lie in
      [1, num_classes).
    input_context: Which of how many pipelines this is.
    start_step: Step at which training resumes.
    repeat: Whether evaluation is infinite too.

  Returns:
    Batches `(images, labels)`. Images are `[batch, height, width, 3]`, float32 in
    [-1, 1]. Labels are a dictionary:
      boxes: `[batch, max_boxes, 4]`, float32: ymin, xmin, ymax, xmax as fractions of
        the image; zeros after the last one.
      classes: `[batch, max_boxes]`, int32; `PADDING_CLASS` after the last one.
      num_boxes: `[batch]`, int32; the first `max_boxes` of an image count.
    And in evaluation:
      image_weight: `[batch]`, float32; 0 for the padding of the last batch, else 1.
      image_info: `[batch, 4, 2]`, float32, as Model Garden's: height and width of the
        image, of the network's input, their quotients, zeros.
      groundtruths: What Model Garden's `COCOEvaluator` takes: `source_id`,
        `height`, `width`, `num_detections`, `[batch]`; `boxes` in pixels of the image,
        `classes`, `areas`, `is_crowds`, `[batch, max_boxes, ...]`. The evaluator knows
        no padding: do not pass it images whose `source_id` is `PADDING_SOURCE_ID`.

  Raises:
    UserError: If a field of `data` is out of its range, if files are missing or empty,
      if the replicas do not divide the batch, or if there are fewer examples than
      pipelines.
  """
  check_config(data, image_size, num_classes)
  parser = _Parser(data, image_size, num_classes)
  return input_pipeline.build_dataset(
    data,
    input_pipeline.RecordParser(
      parser.parse, parser.padding(), record_format(num_classes)
    ),
    input_context,
    start_step=start_step,
    repeat=repeat,
  )


def check_config(
  data: cfg.DataConfig, image_size: tuple[int, int], num_classes: int
) -> None:
  """Refuses values that no input can be built from.

  Raises:
    UserError: Naming the field, its value and what is allowed.
  """
  options = data.preprocessing_options
  height, width = image_size
  minima = {
    "max_boxes": (options.max_boxes, 1),
    "image height": (height, MIN_IMAGE_SIZE),
    "image width": (width, MIN_IMAGE_SIZE),
  }
  input_fields.check_minima(data, image_size, num_classes, minima)
  if options.random_crop not in input_fields.RANDOM_CROPS:
    known = errors.did_you_mean(options.random_crop, input_fields.RANDOM_CROPS)
    raise errors.UserError(f"random_crop: {options.random_crop!r} is unknown. {known}")


def check_input(
  data: cfg.DataConfig, image_size: tuple[int, int], num_classes: int
) -> record_check.CheckedRecords:
  """Looks at an input's fields, files and first records before anything is built.

  Args:
    data: What is read, and how, as for `build_dataset`.
    image_size: Height and width of the network's input in pixels.
    num_classes: Number of classes, background included.

  Raises:
    UserError: If a field is out of its range, or as `record_check.check_records`.
  """
  check_config(data, image_size, num_classes)
  return record_check.check_input(data, record_format(num_classes))


def record_format(num_classes: int) -> corrupt_records.RecordFormat:
  """Returns what is expected of a record: an image, and boxes with labels.

  Args:
    num_classes: Number of classes, background included.
  """
  return corrupt_records.RecordFormat(
    num_classes,
    tfrecord.encoded_image,
    lambda example: detection_record.labels_of(example, num_classes),
    first_label=1,
  )


class _Decoder(tf_example_decoder.TfExampleDecoder):
  """Model Garden's decoder; images are decoded as for other tasks and in an export."""

  def _decode_image(self, parsed_tensors: dict[str, tf.Tensor]) -> tf.Tensor:
    return image_decoding.decode_image(parsed_tensors[tfrecord.IMAGE_KEY])


class _Parser:
  """Turns records into examples of static shape."""

  def __init__(
    self, data: cfg.DataConfig, image_size: tuple[int, int], num_classes: int
  ) -> None:
    self._decoder = _Decoder()
    self._is_training = data.is_training
    self._options = data.preprocessing_options
    self._image_size = image_size
    self._num_classes = num_classes

  def parse(
    self, seed: tf.Tensor, record: tf.Tensor
  ) -> tuple[tuple[tf.Tensor, Labels], tf.Tensor]:
    """Returns an example, and whether its labels lie within the classes."""
    decoded = self._decoder.decode(record)
    with tf.control_dependencies(_assert_consistent(decoded)):
      classes = tf.cast(decoded["groundtruth_classes"], tf.int32)
    valid = tf.reduce_all((classes >= 1) & (classes < self._num_classes))
    if self._is_training:
      return self._train_example(decoded, classes, seed), valid
    return self._eval_example(decoded, classes), valid

  def padding(self) -> tuple[tf.Tensor, Labels]:
    """Returns a black image without boxes, in evaluation of weight 0 and no id."""
    with tf.device("CPU:0"):  # whatever the device of a strategy's scope
      if self._is_training:
        labels = self._padded(tf.zeros([0, 4]), tf.zeros([0], tf.int32))
        return tf.zeros([*self._image_size, 3]), labels
      decoded = {
        "image": tf.zeros([1, 1, 3], tf.uint8),
        "source_id": tf.constant(str(PADDING_SOURCE_ID)),
        "groundtruth_boxes": tf.zeros([0, 4]),
        "groundtruth_area": tf.zeros([0]),
        "groundtruth_is_crowd": tf.zeros([0], tf.bool),
      }
      image, labels = self._eval_example(decoded, tf.zeros([0], tf.int32))
      return tf.zeros_like(image), labels | {"image_weight": tf.zeros([])}

  def _train_example(
    self, decoded: dict[str, tf.Tensor], classes: tf.Tensor, seed: tf.Tensor
  ) -> tuple[tf.Tensor, Labels]:
    image = decoded["image"]
    # The sampler of crops refuses boxes outside, by however little.
    boxes = tf.clip_by_value(decoded["groundtruth_boxes"], 0.0, 1.0)
    boxes, classes = _objects(boxes, classes, decoded["groundtruth_is_crowd"])
    flip_seed, crop_seed = tf.unstack(
      tf.random.experimental.stateless_split(seed, num=2)
    )
    if self._options.flip:
      image, boxes = ssd_preprocessing.random_flip(image, boxes, flip_seed)
    if self._options.random_crop == "ssd":
      image, boxes, classes = ssd_preprocessing.random_crop(
        image, boxes, classes, crop_seed
      )
    return ssd_preprocessing.preprocess_image(image, self._image_size), self._padded(
      boxes, classes
    )

  def _eval_example(
    self, decoded: dict[str, tf.Tensor], classes: tf.Tensor
  ) -> tuple[tf.Tensor, Labels]:
    size = tf.shape(decoded["image"])[:2]
    sizes = tf.cast(tf.stack([size, tf.constant(self._image_size)]), tf.float32)
    scale = sizes[1] / sizes[0]
    objects = _objects(
      decoded["groundtruth_boxes"], classes, decoded["groundtruth_is_crowd"]
    )
    labels = self._padded(*objects) | {
      "image_weight": tf.ones([]),
      "image_info": tf.concat([sizes, [scale], tf.zeros([1, 2])], axis=0),
      "groundtruths": _groundtruths(decoded, classes, self._options.max_boxes),
    }
    image = ssd_preprocessing.preprocess_image(decoded["image"], self._image_size)
    return image, labels

  def _padded(self, boxes: tf.Tensor, classes: tf.Tensor) -> Labels:
    max_boxes = self._options.max_boxes
    pad = preprocess_ops.clip_or_pad_to_fixed_size
    return {
      "boxes": pad(boxes, max_boxes, 0),
      "classes": pad(classes, max_boxes, PADDING_CLASS),
      "num_boxes": tf.minimum(tf.shape(classes)[0], max_boxes),
    }


def read_groundtruths(files: Sequence[str], max_boxes: int) -> tf.data.Dataset:
  """Reads encoded images with what an evaluator takes, each once, in file order.

  Args:
    files: Paths of TFRecords.
    max_boxes: Boxes that an image is padded to.

  Returns:
    Examples: encoded image (string), and groundtruths as `build_dataset`'s.
  """

  def parse(record: tf.Tensor) -> tuple[tf.Tensor, Labels]:
    decoded = _Decoder().decode(record)
    classes = tf.cast(decoded["groundtruth_classes"], tf.int32)
    image = tf.io.FixedLenFeature([], tf.string)
    encoded = tf.io.parse_single_example(record, {tfrecord.IMAGE_KEY: image})
    return encoded[tfrecord.IMAGE_KEY], _groundtruths(decoded, classes, max_boxes)

  return tf.data.TFRecordDataset(list(files)).map(parse, tf.data.AUTOTUNE)


def _groundtruths(
  decoded: dict[str, tf.Tensor], classes: tf.Tensor, max_boxes: int
) -> dict[str, tf.Tensor]:
  boxes = decoded["groundtruth_boxes"]
  size = tf.shape(decoded["image"])[:2]
  has_area = _has_area(boxes)
  is_crowd = tf.boolean_mask(decoded["groundtruth_is_crowd"], has_area)
  groundtruths = {
    "source_id": _numeric_source_id(decoded["source_id"]),
    "height": size[0],
    "width": size[1],
    "num_detections": tf.reduce_sum(tf.cast(has_area, tf.int32)),
    "boxes": tf.boolean_mask(box_ops.denormalize_boxes(boxes, size), has_area),
    "classes": tf.boolean_mask(classes, has_area),
    "areas": tf.boolean_mask(decoded["groundtruth_area"], has_area),
    "is_crowds": tf.cast(is_crowd, tf.int32),
  }
  return upstream_utils.pad_groundtruths_to_fixed_size(groundtruths, max_boxes)


def _objects(
  boxes: tf.Tensor, classes: tf.Tensor, is_crowd: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns what a network learns: boxes that have an area and are no crowd."""
  kept = _has_area(boxes) & ~is_crowd
  return tf.boolean_mask(boxes, kept), tf.boolean_mask(classes, kept)


def _has_area(boxes: tf.Tensor) -> tf.Tensor:
  return tf.reduce_all(boxes[:, 2:] > boxes[:, :2], axis=-1)


def _numeric_source_id(source_id: tf.Tensor) -> tf.Tensor:
  """Returns an int64, as the evaluator needs: a hash where an id is no number."""
  is_number = tf.strings.regex_full_match(source_id, r"-1|\d{1,15}")
  return tf.cond(
    is_number,
    lambda: tf.strings.to_number(source_id, tf.int64),
    lambda: tf.strings.to_hash_bucket_fast(source_id, _MAX_SOURCE_ID),
  )


def _assert_consistent(decoded: dict[str, tf.Tensor]) -> list[tf.Operation]:
  """Returns checks that fail where a record's boxes, labels, … are not as many."""
  boxes = decoded["groundtruth_boxes"]
  others = ("classes", "is_crowd", "area")
  checks = [
    tf.debugging.assert_equal(
      tf.shape(decoded[f"groundtruth_{name}"])[0], tf.shape(boxes)[0]
    )
    for name in others
  ]
  return [*checks, tf.debugging.assert_all_finite(boxes, "boxes").op]
