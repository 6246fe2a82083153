"""Predicts classes, boxes or masks of image files, by a run, an export, or a model."""

import dataclasses
import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence

import tensorflow as tf

from mnv2_hpu.core import run_record
from mnv2_hpu.data_preparation import images, input_files
from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation import evaluator, prediction_fields
from mnv2_hpu.evaluation.prediction_fields import Prediction
from mnv2_hpu.serving import export, exported_models, metadata
from mnv2_hpu.serving.image_classification import ClassificationModule
from mnv2_hpu.serving.semantic_segmentation import SegmentationModule

BATCH_SIZE = 32
_SEGMENTATION_BATCH_SIZE = 4  # the upsampled logits take much memory


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
  dataset = evaluator.dataset_info(params, run_dir)
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
  fields, names = prediction_fields.FIELDS[predictor.task], predictor.label_names
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
