"""Predicts classes, boxes or masks of image files, by a run, an export, or a model."""

import dataclasses
import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mnv2_hpu.core import run_record
from mnv2_hpu.data_preparation import images, input_files
from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation import evaluator
from mnv2_hpu.serving import export, exported_models, metadata
from mnv2_hpu.serving.image_classification import ClassificationModule
from mnv2_hpu.serving.object_detection import (
  BOXES,
  CLASSES,
  SCORES,
  DetectionModule,
)
from mnv2_hpu.serving.semantic_segmentation import MASKS, SIZES, SegmentationModule

BATCH_SIZE = 32
_SEGMENTATION_BATCH_SIZE = 4  # the upsampled logits take much memory
TOP = 3  # classes of a prediction


@dataclasses.dataclass(frozen=True)
class Predictor:
  """A model with what its users need to know of it.

  Attributes:
    predict: Takes encoded images `[batch]`, returns what the task's module does: of a
      classifier `probs`, `[batch, num_classes]`.
    label_names: Name of each class.
    significant_bits: Bits that samples of 16 bits use in its images.
    task: `"classification"`, `"detection"` or `"segmentation"`.
  """

  predict: exported_models.Predict
  label_names: Sequence[str]
  significant_bits: int
  task: str = ClassificationModule.task_name

  @property
  def batch_size(self) -> int:
    """Images that it is given at once."""
    is_segmenter = self.task == SegmentationModule.task_name
    return _SEGMENTATION_BATCH_SIZE if is_segmenter else BATCH_SIZE


class Detection(NamedTuple):
  """An object that was found.

  Attributes:
    name: Name of its class.
    score: Its score, in [0, 1].
    box: ymin, xmin, ymax, xmax in pixels of the image.
    label: Index of its class.
  """

  name: str
  score: float
  box: tuple[float, float, float, float]
  label: int


class Area(NamedTuple):
  """The pixels of one class.

  Attributes:
    name: Name of the class.
    pixels: Their number.
    fraction: Fraction of the image, in [0, 1].
    label: Index of the class.
  """

  name: str
  pixels: int
  fraction: float
  label: int


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What a model says of one file.

  Attributes:
    file: Its path.
    classes: Name and probability of the likeliest classes, the best first; empty where
      the file is no image, and of other tasks.
    detections: Objects that a detector has found, the best first.
    areas: Classes that a segmenter has found, the largest first.
    mask: Class of each pixel, uint8 `[height, width]`; None of other tasks.
    error: Why it could not be read; empty where it could.
    encoded: The image as the network got it, JPEG or PNG.
  """

  file: str
  classes: tuple[tuple[str, float], ...] = ()
  detections: tuple[Detection, ...] = ()
  areas: tuple[Area, ...] = ()
  mask: np.ndarray | None = None
  error: str = ""
  encoded: bytes = b""


def load(path: str) -> Predictor:
  """Loads a model.

  Args:
    path: Folder of a run or one of its checkpoints (EMA weights where there are any),
      folder of an export (its SavedModel where it has one), or one of its models.

  Raises:
    UserError: If there is no model.
  """
  if not (tf.io.gfile.exists(path) or tf.io.gfile.exists(f"{path}.index")):
    raise UserError(
      f"--model={path} does not exist. Give a run or a checkpoint of it, an export, a "
      "SavedModel, a .tflite or .onnx file, or a folder that mnv2-import-checkpoint "
      "wrote."
    )
  run_dir = evaluator.run_folder(path)
  if tf.io.gfile.exists(os.path.join(run_dir, run_record.FILE)):
    return _of_run(run_dir, path)
  if os.path.exists(os.path.join(path, metadata.FILE)):
    content, models = metadata.read(path), exported_models.load(path)
    predict = models.get("saved_model") or next(iter(models.values()))
  else:
    predict, content = exported_models.load_one(path)
  names = content["label_names"] or [str(i) for i in range(content["num_classes"])]
  bits = content["image_decoding"]["significant_bits"]
  return Predictor(predict, names, bits, metadata.task_of(content))


def _of_run(run_dir: str, checkpoint: str) -> Predictor:
  params = run_record.load(run_dir)
  dataset = evaluator.dataset_info(params)
  bits = dataset.significant_bits if dataset else 16
  weights = evaluator.default_weights(params)
  module, _ = export.build_module(params, checkpoint, weights, bits)

  predict = export.as_predict(module)
  names = evaluator.class_names(params, run_dir)
  return Predictor(predict, names, bits, module.task_name)


def find_images(arguments: Sequence[str]) -> list[str]:
  """Returns the files that are named, each once, in the order of their naming.

  Args:
    arguments: Files, folders (all files below, without those of the system), patterns.

  Raises:
    UserError: If there is no argument, or if one matches nothing.
  """
  if not arguments:
    raise UserError("no image is named. Give files, folders or patterns of them.")
  found: dict[str, None] = {}
  for argument in arguments:
    matched = [argument] if os.path.lexists(argument) else sorted(glob.glob(argument))
    files = [file for path in matched for file in _below(path)]
    if not files:
      raise UserError(
        f"{argument!r} matches no file. Give files, folders or patterns of them."
      )
    found.update(dict.fromkeys(files))
  return list(found)


def _below(path: str) -> list[str]:
  if not os.path.isdir(path):
    return [path]
  folder = input_files.InputFolder(path, "a folder of images is expected")
  return [os.path.join(path, name) for name, _ in folder.files_below("")]


def predict_files(
  predictor: Predictor, files: Iterable[str], min_score: float = 0.0
) -> Iterator[Prediction]:
  """Yields the prediction of each file in order; the memory is that of a batch.

  A file is read as preparation reads it (`data_preparation.images`), whatever its
  format: what training would have skipped is reported here.

  Args:
    predictor: The model.
    files: Paths.
    min_score: Score that a detection has at least.
  """
  remaining = iter(files)
  fields, names = _FIELDS[predictor.task], predictor.label_names
  while batch := list(itertools.islice(remaining, predictor.batch_size)):
    predictions = [_read(file, predictor.significant_bits) for file in batch]
    readable = [p for p in predictions if not p.error]
    if readable:
      outputs = predictor.predict(tf.constant([p.encoded for p in readable]))
      rows = iter(
        dataclasses.replace(p, **fields(outputs, i, names, min_score))
        for i, p in enumerate(readable)
      )
      predictions = [p if p.error else next(rows) for p in predictions]
    yield from predictions


def _read(file: str, significant_bits: int) -> Prediction:
  try:
    image = images.read(input_files.read_file(file), significant_bits=significant_bits)
  except OSError as error:
    return Prediction(file, error=error.strerror or str(error))
  except images.BadImageError as error:
    return Prediction(file, error=str(error))
  return Prediction(file, encoded=image.encoded)


def _classes(
  outputs: Mapping[str, np.ndarray], row: int, names: Sequence[str], min_score: float
) -> dict[str, Any]:
  del min_score
  probabilities = outputs["probs"][row]
  best = np.argsort(-probabilities, kind="stable")[:TOP]
  return {"classes": tuple((names[i], float(probabilities[i])) for i in best)}


def _detections(
  outputs: Mapping[str, np.ndarray], row: int, names: Sequence[str], min_score: float
) -> dict[str, Any]:
  found = zip(
    outputs[CLASSES][row].astype(int).tolist(),
    outputs[SCORES][row].tolist(),
    outputs[BOXES][row].tolist(),
    strict=True,
  )
  detections = (
    Detection(names[label], score, tuple(box), label)
    for label, score, box in found
    if score > 0 and score >= min_score
  )
  return {"detections": tuple(detections)}


def _areas(
  outputs: Mapping[str, np.ndarray], row: int, names: Sequence[str], min_score: float
) -> dict[str, Any]:
  del min_score
  height, width = outputs[SIZES][row]
  mask = outputs[MASKS][row, :height, :width].copy()  # not all of the batch
  counts = np.bincount(mask.ravel(), minlength=len(names))
  areas = (
    Area(names[i], int(counts[i]), float(counts[i] / mask.size), int(i))
    for i in np.argsort(-counts, kind="stable")
    if counts[i]
  )
  return {"areas": tuple(areas), "mask": mask}


# Fields of a `Prediction` of a row of outputs, by task.
_FIELDS: dict[str, Callable[..., dict[str, Any]]] = {
  ClassificationModule.task_name: _classes,
  DetectionModule.task_name: _detections,
  SegmentationModule.task_name: _areas,
}
