"""Inference of the halves of a batch, which a CPU's cores compute side by side.

Within a layer all cores wait for the slowest one, most of all where the input takes
some of them; layers of the other half fill the time. Quarters gain no more at 224 px,
and less below 128.
"""

from typing import Any

import tensorflow as tf

from mnv2_hpu.compat import keras

_MIN_IMAGES = 16  # a batch of fewer loses more than it gains


def infer(images: tf.Tensor, model: keras.Model) -> Any:
  """Returns what a network computes of images in inference.

  Args:
    images: float32 `[batch, height, width, 3]`.
    model: Network. Where not all its outputs are `[batch, ...]` nothing is halved.
  """
  # Eagerly, nothing runs side by side.
  if tf.executing_eagerly() or not (is_halved(images.shape[0]) and _is_by_image(model)):
    return model(images, training=False)
  of_half = tf.function(lambda half: model(half, training=False))  # traced once
  first, second = (of_half(half) for half in tf.split(images, 2))
  return tf.nest.map_structure(lambda *x: tf.concat(x, axis=0), first, second)


def is_halved(batch_size: int | None) -> bool:
  """Returns whether a batch is halved: only where one CPU computes all of it.

  >>> [is_halved(size) for size in (None, 8, 16, 17, 96)]
  [False, False, True, False, True]
  """
  devices = [device.device_type for device in tf.config.list_logical_devices()]
  if devices != ["CPU"] or batch_size is None:
    return False
  return batch_size >= _MIN_IMAGES and batch_size % 2 == 0


def _is_by_image(model: keras.Model) -> bool:
  """Whether all outputs are known to be `[batch, ...]`, and no loss is of them."""
  outputs = model.outputs or ()
  if any(getattr(part, "activity_regularizer", None) for part in model.submodules):
    return False
  return bool(outputs) and all(x.shape.rank and x.shape[0] is None for x in outputs)
