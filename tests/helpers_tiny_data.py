"""Tiny TFRecords made in code: coloured rectangles on noise.

Model Garden's own `tfexample_utils` gives every image one source id and starts its
labels at the background; COCO evaluation needs neither, so scenes are made here and
Model Garden's `TfExampleBuilder` does the encoding.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from official.core import file_writers
from official.vision.data import tf_example_builder

# Class 0 is the background; the others are distinguished by their colour.
COLOURS = {1: (220, 40, 40), 2: (40, 60, 220)}
NUM_CLASSES = 1 + len(COLOURS)


class Scene(NamedTuple):
  """One image with its annotations.

  Attributes:
    image: uint8 `[size, size, 3]`.
    boxes: float `[n, 4]`: ymin, xmin, ymax, xmax as fractions of the size.
    labels: the class of each box.
    masks: uint8 `[n, size, size]`, 1 inside the box.
  """

  image: np.ndarray
  boxes: np.ndarray
  labels: list[int]
  masks: np.ndarray


def make_scene(rng: np.random.Generator, size: int) -> Scene:
  """One rectangle of each class, one in the left half and one in the right."""
  image = rng.integers(96, 160, (size, size, 3), dtype=np.uint8)
  labels = rng.permutation(list(COLOURS)).tolist()
  masks = np.zeros((len(labels), size, size), np.uint8)
  boxes = np.zeros((len(labels), 4))
  column = size // len(labels)
  for i, label in enumerate(labels):
    height, width = rng.integers(column // 2, column - 2, 2)
    top = rng.integers(0, size - height)
    left = i * column + rng.integers(0, column - width)
    inside = np.s_[top : top + height, left : left + width]
    image[inside] = COLOURS[label]
    masks[i][inside] = 1
    boxes[i] = np.array([top, left, top + height, left + width]) / size
  return Scene(image, boxes, labels, masks)


def _builder(scene: Scene, source_id: int) -> tf_example_builder.TfExampleBuilder:
  builder = tf_example_builder.TfExampleBuilder()
  return builder.add_image_matrix_feature(
    scene.image, image_source_id=str(source_id).encode()
  )


def _write(
  path: Path,
  add_labels: Callable[[tf_example_builder.TfExampleBuilder, Scene], object],
  num_images: int,
  size: int,
  seed: int,
) -> Path:
  """Writes scenes, to each of whose examples `add_labels` adds its labels."""
  rng = np.random.default_rng(seed)
  examples = []
  for source_id in range(1, num_images + 1):
    scene = make_scene(rng, size)
    builder = _builder(scene, source_id)
    add_labels(builder, scene)
    examples.append(builder.example)
  file_writers.write_small_dataset(examples, str(path))
  return path


def _add_objects(builder: tf_example_builder.TfExampleBuilder, scene: Scene) -> None:
  ymins, xmins, ymaxs, xmaxs = scene.boxes.T.tolist()
  builder.add_boxes_feature(xmins, xmaxs, ymins, ymaxs, scene.labels)
  builder.add_instance_mask_matrices_feature(scene.masks)
  builder.add_ints_feature("image/object/is_crowd", [0] * len(scene.labels))


def _add_label_image(
  builder: tf_example_builder.TfExampleBuilder, scene: Scene
) -> None:
  label_image = np.einsum("n,nhw->hw", scene.labels, scene.masks).astype(np.uint8)
  builder.add_semantic_mask_matrix_feature(label_image)


def write_detection_records(
  path: Path, num_images: int = 4, size: int = 64, seed: int = 0
) -> Path:
  """Boxes, classes and instance masks, as the COCO converter writes them."""
  return _write(path, _add_objects, num_images, size, seed)


def write_segmentation_records(
  path: Path, num_images: int = 4, size: int = 64, seed: int = 0
) -> Path:
  """An image and a label image: the class of each pixel."""
  return _write(path, _add_label_image, num_images, size, seed)
