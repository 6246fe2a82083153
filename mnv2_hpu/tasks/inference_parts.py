"""Inference of a batch in parts, which a CPU's cores compute side by side.

Within a layer all cores wait for the slowest one, most of all where the input takes
some of them; another part's layers fill the time.
"""

from typing import Any

import tensorflow as tf

from mnv2_hpu.compat import keras

_MAX_PARTS = 2  # four are slower below 128 px, no faster above (2 cores)
_MIN_IMAGES = 8  # a part of fewer costs more than it gains


def infer(images: tf.Tensor, model: keras.Model) -> Any:
  """Returns what a network computes of images in inference.

  Args:
    images: float32 `[batch, height, width, 3]`.
    model: Network. Where not all its outputs are `[batch, ...]` there is one part.
  """
  count = num_parts(images.shape[0]) if _is_by_image(model) else 1
  # Eagerly, nothing runs side by side.
  if count == 1 or tf.executing_eagerly():
    return model(images, training=False)
  of_part = tf.function(lambda part: model(part, training=False))  # traced once
  outputs = [of_part(part) for part in tf.split(images, count)]
  return tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0), *outputs)


def _is_by_image(model: keras.Model) -> bool:
  """Whether all outputs are known to be `[batch, ...]`, and no loss is of them."""
  outputs = model.outputs or ()
  if any(getattr(part, "activity_regularizer", None) for part in model.submodules):
    return False
  return bool(outputs) and all(x.shape.rank and x.shape[0] is None for x in outputs)


def num_parts(batch_size: int | None) -> int:
  """Returns the parts of a batch; 1 where anything but one CPU computes it.

  >>> [num_parts(size) for size in (None, 1, 16, 17, 32, 96)]
  [1, 1, 2, 1, 2, 2]
  """
  devices = [device.device_type for device in tf.config.list_logical_devices()]
  if devices != ["CPU"] or batch_size is None:
    return 1
  largest = min(_MAX_PARTS, max(1, batch_size // _MIN_IMAGES))
  return max(n for n in range(1, largest + 1) if batch_size % n == 0)
