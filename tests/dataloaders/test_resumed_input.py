"""A resumed input pipeline continues, bit for bit, where it was interrupted."""

import logging

import numpy as np
import pytest
import tensorflow as tf
from helpers_record_files import write_files

from mnv2_hpu import tfrecord
from mnv2_hpu.configs.image_classification import DataConfig
from mnv2_hpu.dataloaders import classification_input
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo, SplitInfo
from mnv2_hpu.dataloaders.input_fields import PreprocessingOptions

STEPS = 11


def _batches(pattern, context, steps, start_step=0, **overrides):
  """The batches of a few steps, as `(images, labels)` arrays."""
  data = DataConfig(
    **{
      "input_path": pattern,
      "global_batch_size": 4,
      "is_training": True,
      "shuffle_buffer_size": 5,
      "seed": 3,
      **overrides,
    }
  )
  dataset = classification_input.build_dataset(
    data, (8, 8), 100, context, start_step=start_step
  )
  replicas = context.num_replicas_in_sync // context.num_input_pipelines
  return list(dataset.take(steps * replicas).as_numpy_iterator())


def _assert_same(batches, expected):
  assert len(batches) == len(expected)
  for (images, labels), (other_images, other_labels) in zip(
    batches, expected, strict=True
  ):
    np.testing.assert_array_equal(labels, other_labels)
    assert images.tobytes() == other_images.tobytes()


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize(
  ("sizes", "pipelines", "replicas"),
  [
    pytest.param([5, 8], 1, 1, id="one pipeline"),
    pytest.param([5, 8], 1, 2, id="two replicas of one pipeline"),
    pytest.param([5, 2, 8, 3], 2, 4, id="whole files of unequal length"),
    pytest.param([4, 2, 7], 2, 2, id="records of all files"),
  ],
)
def test_a_resumed_pipeline_continues_the_uninterrupted_one(
  tmp_path, sizes, pipelines, replicas, cache
):
  """Epochs are 3 to 5 steps long, so that the steps cross two or more of them."""
  pattern = write_files(tmp_path, sizes)
  for pipeline in range(pipelines):
    context = tf.distribute.InputContext(pipelines, pipeline, replicas)
    whole = _batches(pattern, context, STEPS, cache=cache)
    for start in (3, 4, 9):
      resumed = _batches(pattern, context, STEPS - start, start, cache=cache)
      _assert_same(resumed, whole[start * replicas // pipelines :])


def test_full_color_mode_and_its_resize_methods_resume_too(tmp_path):
  options = PreprocessingOptions(fast_mode=False)
  pattern, context = write_files(tmp_path, [13]), tf.distribute.InputContext()
  whole = _batches(pattern, context, 8, preprocessing_options=options)
  _assert_same(
    _batches(pattern, context, 3, 5, preprocessing_options=options), whole[5:]
  )


def test_the_log_says_where_it_resumes_and_what_it_skips(tmp_path, caplog):
  """13 records an epoch; 4 steps of 4 are 16: one epoch, and 3 of the next."""
  caplog.set_level(logging.INFO, logger="absl")
  context = tf.distribute.InputContext()
  pattern = write_files(tmp_path, [6, 7])
  _batches(pattern, context, 1)
  assert "resumes" not in caplog.text
  _batches(pattern, context, 1, start_step=4)
  assert "pipeline 0 of 1 resumes after 16 records, in epoch 1" in caplog.text
  assert "reads 3 records of that epoch without decoding" in caplog.text


def test_epochs_long_past_are_not_read(tmp_path):
  """A hundred thousand steps in: reading them all would take minutes."""
  context = tf.distribute.InputContext(2, 1, 2)
  pattern = write_files(tmp_path, [6, 7, 3, 4])
  (batch,) = _batches(pattern, context, 1, start_step=100_000)
  assert batch[0].shape == (2, 8, 8, 3)


def test_dataset_json_spares_the_counting(tmp_path, monkeypatch):
  pattern = write_files(tmp_path, [6, 7])
  split = SplitInfo(13, 2, "train-*-of-00002", [13])
  DatasetInfo("made", ["one"], 1, {"train": split}, [], [], 0, None, "", "").save(
    tmp_path
  )
  context = tf.distribute.InputContext()
  whole = _batches(pattern, context, 6)
  monkeypatch.setattr(tfrecord, "count_records", None)
  _assert_same(_batches(pattern, context, 2, 4), whole[4:])


@pytest.mark.parametrize("used", ["train-00000-*", "train-*, validation-*"])
def test_other_files_than_dataset_json_names_are_counted(tmp_path, used):
  """A part of the split, or more than it: what dataset.json says is of no use."""
  write_files(tmp_path, [6, 7])
  (tmp_path / "train-00000-of-00002").rename(tmp_path / "validation-00000-of-00001")
  write_files(tmp_path, [6, 7])
  split = SplitInfo(13, 2, "train-*-of-00002", [13])
  DatasetInfo("made", ["one"], 1, {"train": split}, [], [], 0, None, "", "").save(
    tmp_path
  )
  pattern = ",".join(str(tmp_path / part.strip()) for part in used.split(","))
  context = tf.distribute.InputContext()
  whole = _batches(pattern, context, 9)
  _assert_same(_batches(pattern, context, 2, 7), whole[7:])
