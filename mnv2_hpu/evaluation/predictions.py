"""What an export predicted for the held-out images, and the choice of those to show."""

import numpy as np

from mnv2_hpu.dataloaders import encoded_examples, record_files
from mnv2_hpu.reporting.plots import Sample
from mnv2_hpu.serving import check_result, metadata


def read_samples(
  export_dir: str, labels: np.ndarray, probabilities: np.ndarray, max_samples: int
) -> list[Sample]:
  """Returns held-out images with their predictions, chosen by `choose_samples`.

  Args:
    export_dir: Folder of an export, checked.
    labels: True classes, `[n]`.
    probabilities: Predictions, `[n, num_classes]`.
    max_samples: Images to return, where there are so many.
  """
  predicted = probabilities.argmax(-1)
  chosen = choose_samples(labels, predicted, max_samples)
  images = encoded_examples.read_images(
    record_files.match_files(check_result.read_result(export_dir).input_path),
    metadata.read(export_dir)["data"],
    chosen,
  )
  return [
    Sample(image, int(labels[i]), int(predicted[i]), float(probabilities[i].max()))
    for i, image in zip(chosen, images, strict=True)
  ]


def choose_samples(
  labels: np.ndarray, predictions: np.ndarray, max_samples: int
) -> list[int]:
  """Returns numbers of records: wrong predictions first, then others, evenly spread.

  >>> choose_samples(np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 0, 1]), 3)
  [2, 0, 4]

  Args:
    labels: True classes, `[n]`.
    predictions: Predicted classes, `[n]`.
    max_samples: Numbers to return, where there are so many.
  """
  wrong = np.flatnonzero(predictions != labels)[:max_samples]
  right = np.flatnonzero(predictions == labels)
  count = min(max_samples - len(wrong), len(right))
  spread = np.linspace(0, len(right) - 1, num=count).astype(int)
  return [*wrong.tolist(), *right[spread].tolist()]
