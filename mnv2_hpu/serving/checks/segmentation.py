"""The mean IoU of an exported segmenter, to be compared with its checkpoint's."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mnv2_hpu.dataloaders import record_files, segmentation_input
from mnv2_hpu.progress import Progress
from mnv2_hpu.serving import exported_models
from mnv2_hpu.serving.checks import metric
from mnv2_hpu.serving.semantic_segmentation import MASKS
from mnv2_hpu.tasks import segmentation_metrics

_BATCH_SIZE = 4  # the upsampled logits take much memory


@dataclasses.dataclass(frozen=True)
class SegmentationVerification(metric.MetricVerification):
  """What came out: the mean IoU, and the accuracy of the pixels."""

  title = "mean IoU, and accuracy of the pixels, at the images' own size"

  @classmethod
  def _measure(
    cls,
    models: Mapping[str, exported_models.Predict],
    input_path: str,
    content: Mapping[str, Any],
    description: str,
  ) -> tuple[int, dict[str, dict[str, float]]]:
    records = record_files.match_files(input_path)
    num_classes, done = content["num_classes"], 0
    confusions = {name: np.zeros([num_classes] * 2, np.int64) for name in models}
    examples = iter(segmentation_input.read_examples(records).as_numpy_iterator())
    total = record_files.count_examples(records)
    with Progress(total, "image", description) as progress:
      while batch := list(itertools.islice(examples, _BATCH_SIZE)):
        encoded = tf.constant([image for image, _ in batch])
        for name, run in models.items():
          for (_, truth), mask in zip(batch, run(encoded)[MASKS], strict=True):
            height, width = truth.shape  # what lies beyond pads the batch
            confusions[name] += segmentation_metrics.confusion(
              truth,
              mask[:height, :width],
              num_classes,
              content["data"]["ignore_label"],
            )
        done += len(batch)
        progress.update_to(done)
    return total, {name: _metrics(counts) for name, counts in confusions.items()}


def _metrics(confusion: np.ndarray) -> dict[str, float]:
  return {
    "mIoU": segmentation_metrics.mean_iou(confusion),
    "accuracy": segmentation_metrics.pixel_accuracy(confusion),
  }
