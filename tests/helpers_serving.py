"""What the serving tests share: sizes, images, records, an experiment."""

import dataclasses
import io

import numpy as np
import tensorflow as tf
from official.core import config_definitions as cfg
from PIL import Image

from mnv2_hpu.dataloaders.input_fields import PreprocessingOptions

NUM_CLASSES = 7
SIZE = 32
NUM_RECORDS = 130  # no multiple of a batch
OPTIONS = PreprocessingOptions(central_fraction=0.8)


@dataclasses.dataclass
class Trained:
  """What a training run leaves: experiment, checkpoint, the network, data."""

  params: cfg.ExperimentConfig
  checkpoint: str
  model: tf.keras.Model  # holds the EMA weights
  raw: list[np.ndarray]
  images: list[np.ndarray]
  records: str


def png(image):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format="PNG")
  return buffer.getvalue()


def write_records(path, images, labels):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for image, label in zip(images, labels, strict=True):
      feature = {
        "image/encoded": tf.train.Feature(
          bytes_list=tf.train.BytesList(value=[png(image)])
        ),
        "image/class/label": tf.train.Feature(
          int64_list=tf.train.Int64List(value=[label])
        ),
      }
      example = tf.train.Example(features=tf.train.Features(feature=feature))
      writer.write(example.SerializeToString())


def experiment(**data):
  from mnv2_hpu.configs import image_classification as exp_cfg

  task = exp_cfg.ImageClassificationTask()
  task.model.num_classes = NUM_CLASSES
  task.model.input_size = [SIZE, SIZE, 3]
  task.model.backbone.mobilenet_v2.width_multiplier = 0.35
  task.validation_data.override(data)
  return cfg.ExperimentConfig(task=task)
