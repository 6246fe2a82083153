"""Counts over a set against scikit-learn's, and what they keep of it."""

import numpy as np
import pytest
from sklearn import metrics

from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation.sets import classification

NUM_CLASSES, NUM_IMAGES = 7, 400


def logits_and_labels():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, NUM_CLASSES, NUM_IMAGES)
  logits = rng.normal(0, 2, (NUM_IMAGES, NUM_CLASSES)).astype(np.float32)
  logits[np.arange(NUM_IMAGES), labels] += 2
  return logits, labels


def counted(logits, labels, batch_size=33):
  counts = classification.Counts(NUM_CLASSES)
  images = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1, 1)
  losses = images[:, 0, 0, 0] / 100
  for start in range(0, len(labels), batch_size):
    part = np.s_[start : start + batch_size]
    counts.add(
      classification.Batch(images[part], labels[part], logits[part], losses[part])
    )
  return counts


def test_counts_are_those_of_scikit_learn():
  logits, labels = logits_and_labels()
  counts = counted(logits, labels)

  predicted = logits.argmax(-1)
  np.testing.assert_array_equal(
    counts.confusion, metrics.confusion_matrix(labels, predicted)
  )
  assert counts.num_examples == NUM_IMAGES
  assert counts.top1 == metrics.accuracy_score(labels, predicted, normalize=False)
  assert counts.top5 == metrics.top_k_accuracy_score(
    labels, logits, k=5, normalize=False
  )
  assert counts.loss_sum == pytest.approx(sum(range(NUM_IMAGES)) / 100)


def test_calibration_is_that_of_all_probabilities_at_once():
  logits, labels = logits_and_labels()
  probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  confidence, right = probabilities.max(-1), logits.argmax(-1) == labels

  calibration = counted(logits, labels).calibration

  error = 0.0
  for i in range(10):
    inside = (confidence >= i / 10) & (confidence < (i + 1) / 10)
    assert calibration.counts[i] == inside.sum()
    if inside.any():
      assert calibration.confidence[i] == pytest.approx(confidence[inside].mean())
      assert calibration.accuracy[i] == pytest.approx(right[inside].mean())
      gap = abs(confidence[inside].mean() - right[inside].mean())
      error += inside.mean() * gap
  assert calibration.error == pytest.approx(error)
  assert calibration.error > 0.01


def test_the_surest_mistakes_are_kept_and_no_more():
  logits, labels = logits_and_labels()
  counts = counted(logits, labels)
  probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  wrong = np.flatnonzero(logits.argmax(-1) != labels)
  surest = wrong[np.argsort(-probabilities[wrong].max(-1))][
    : classification.MAX_MISTAKES
  ]
  assert len(wrong) > classification.MAX_MISTAKES

  kept = list(counts.worst_mistakes())

  assert [int(one.images[0, 0, 0]) for _, _, one in kept] == surest.tolist()
  assert [int(one.labels) for _, _, one in kept] == labels[surest].tolist()
  assert [predicted for _, predicted, _ in kept] == logits[surest].argmax(-1).tolist()


def test_weights_that_give_nan_are_refused():
  logits, labels = logits_and_labels()
  logits[5, 2] = np.nan
  with pytest.raises(UserError, match="logits are NaN or infinite"):
    counted(logits, labels)
