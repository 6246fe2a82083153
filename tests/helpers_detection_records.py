"""Records of images with boxes, made in code: a bright object on a dark ground."""

import dataclasses

import numpy as np
import tensorflow as tf
from official.core import config_definitions as cfg

from mnv2_hpu.dataloaders.input_fields import DetectionOptions, InputFields


@dataclasses.dataclass
class DataConfig(InputFields, cfg.DataConfig):
  """The fields that a detector's input reads."""

  num_examples: int = 0
  preprocessing_options: DetectionOptions = dataclasses.field(
    default_factory=DetectionOptions
  )


def box_image(box, height=60, width=80):
  """A PNG, dark but for the box (fractions of the image), which is white."""
  image = np.random.RandomState(0).randint(0, 60, (height, width, 3)).astype(np.uint8)
  sides = np.nan_to_num(box) * [height, width, height, width]
  ymin, xmin, ymax, xmax = np.round(sides).astype(int)
  image[ymin:ymax, xmin:xmax] = 255
  return tf.io.encode_png(image).numpy()


def feature(value):
  if isinstance(value, bytes):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
  value = np.asarray(value)
  if value.dtype.kind == "f":
    return tf.train.Feature(float_list=tf.train.FloatList(value=value.ravel()))
  return tf.train.Feature(int64_list=tf.train.Int64List(value=value.ravel()))


def detection_record(source_id, boxes, labels, image=None, **changes):
  """Returns a serialized example; `changes` by key, `/` written `__`, None drops one.

  Args:
    source_id: Text.
    boxes: `[n, 4]`: ymin, xmin, ymax, xmax as fractions of the image.
    labels: `[n]`.
    image: Encoded; where None, one of 60 x 80 whose first box is white.
    **changes: Values of further features.
  """
  boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
  if image is None:
    image = box_image(boxes[0] if len(boxes) else [0, 0, 0, 0])
  values = {
    "image/encoded": image,
    "image/source_id": source_id.encode(),
    "image/height": 60,
    "image/width": 80,
    "image/object/class/label": np.asarray(labels, np.int64),
  }
  for column, side in enumerate(("ymin", "xmin", "ymax", "xmax")):
    values[f"image/object/bbox/{side}"] = boxes[:, column]
  values |= {name.replace("__", "/"): value for name, value in changes.items()}
  features = {k: feature(v) for k, v in values.items() if v is not None}
  example = tf.train.Example(features=tf.train.Features(feature=features))
  return example.SerializeToString()


def write_records(path, records):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in records:
      writer.write(record)
  return str(path)


def validate(task, model):
  """Returns the losses, and COCO's metrics, of the validation files."""
  metrics = task.build_metrics(training=False)
  logs = None
  for inputs in task.build_inputs(task.task_config.validation_data):
    outputs = task.validation_step(inputs, model, metrics)
    as_orbit = tf.nest.map_structure(lambda value: (value,), outputs)
    logs = task.aggregate_logs(logs, as_orbit)
  return {m.name: float(m.result()) for m in metrics}, task.reduce_aggregated_logs(logs)
