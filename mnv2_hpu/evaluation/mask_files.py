"""Files of a segmenter's predictions: masks of labels, and images in their colors."""

import collections
import os
import sys
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from mnv2_hpu import files
from mnv2_hpu.dataloaders import image_decoding
from mnv2_hpu.evaluation.prediction_fields import MIN_FRACTION, Prediction
from mnv2_hpu.reporting import masks, plots

MASKS, BLENDED = "masks", "blended"
_MIN_BLENDED_SIZE = 320  # pixels of the longer side: the legend can be read


class MaskFiles:
  """Writes, for each image, `masks/<name>.png` and `blended/<name>.jpg` of a folder.

  Folders below the one that all images have in common are kept. Two images of one
  folder whose names differ in their ending alone keep it: `a.jpg.png`, `a.png.png`.

  Args:
    output_dir: Folder to write to; made where it is missing.
    paths: All image files.
    class_names: Name of each class.
  """

  def __init__(
    self, output_dir: str, paths: Sequence[str], class_names: Sequence[str]
  ) -> None:
    self._output_dir = output_dir
    self._class_names = class_names
    absolute = {path: os.path.abspath(path) for path in paths}
    root = os.path.commonpath([os.path.dirname(path) for path in absolute.values()])
    names = {path: os.path.relpath(full, root) for path, full in absolute.items()}
    stems = {path: os.path.splitext(name)[0] for path, name in names.items()}
    counts = collections.Counter(stems.values())
    self._names = {
      path: names[path] if counts[stem] > 1 else stem for path, stem in stems.items()
    }

  def write(self, result: Prediction) -> None:
    """Writes both files of an image that could be read."""
    if result.mask is None:
      return
    name = self._names[result.file]
    blended = plots.jpeg(blend(result, self._class_names, _MIN_BLENDED_SIZE))
    for folder, ending, content in (
      (MASKS, "png", masks.label_png(result.mask)),
      (BLENDED, "jpg", blended),
    ):
      path = os.path.join(self._output_dir, folder, f"{name}.{ending}")
      os.makedirs(os.path.dirname(path), exist_ok=True)
      with files.atomic_write(path, "wb") as file:
        file.write(content)


def blend(
  result: Prediction,
  class_names: Sequence[str],
  min_size: int,
  max_size: int | None = None,
) -> np.ndarray:
  """Returns an image with its classes in color and a legend, uint8 `[h, w, 3]`.

  Args:
    result: What a segmenter predicted of it.
    class_names: Name of each class.
    min_size: Longer side in pixels to which a smaller image is enlarged.
    max_size: Longer side in pixels to which a larger one is reduced, if any.

  Raises:
    ValueError: If there is no mask.
  """
  if result.mask is None:
    raise ValueError(f"{result.file!r} has no mask")
  image = image_decoding.decode_image(tf.constant(result.encoded)).numpy()
  blended = masks.blend(image, result.mask)
  side = max(blended.shape[:2])
  size = min(max(side, min_size), max_size or sys.maxsize)
  if size != side:
    blended = masks.fit(blended, size)
  labels = [a.label for a in result.areas if a.fraction >= MIN_FRACTION]
  return masks.with_legend(blended, labels, class_names)
