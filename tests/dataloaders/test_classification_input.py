"""Input pipelines over small TFRecords made here: who reads what, and how often."""

import collections
import itertools

import numpy as np
import pytest
import tensorflow as tf
from official.vision.configs import image_classification as upstream_configs
from official.vision.tasks import image_classification as upstream_task

from mnv2_hpu import errors
from mnv2_hpu.configs.image_classification import DataConfig
from mnv2_hpu.dataloaders import (
  classification_input,
  inception_preprocessing,
  input_pipeline,
)
from mnv2_hpu.dataloaders.input_fields import PREPROCESSINGS, PreprocessingOptions
from mnv2_hpu.native import library

UNDISTORTED = PreprocessingOptions(crop=False, flip=False, color_distortion=False)
SIZE = (16, 12)


def _pixels(number):
  """An image of its own for each number; no two shapes alike in a row."""
  random = np.random.RandomState(number)
  shape = (20 + number % 3, 24 + number % 5, 3)
  return random.randint(0, 256, shape).astype(np.uint8)


def _write_files(directory, num_examples, num_files, encode=tf.io.encode_png):
  """Writes examples labelled 0, 1, ... in turn to the files; returns their pattern."""
  for shard in range(num_files):
    path = directory / f"train-{shard:05d}-of-{num_files:05d}"
    with tf.io.TFRecordWriter(str(path)) as writer:
      for label in range(shard, num_examples, num_files):
        image = encode(_pixels(label)).numpy()
        feature = {
          "image/encoded": tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[image])
          ),
          "image/class/label": tf.train.Feature(
            int64_list=tf.train.Int64List(value=[label])
          ),
        }
        example = tf.train.Example(features=tf.train.Features(feature=feature))
        writer.write(example.SerializeToString())
  return str(directory / "train-*")


def _options(pattern, is_training, **overrides):
  values = {
    "input_path": pattern,
    "global_batch_size": 4,
    "is_training": is_training,
    "shuffle_buffer_size": 100,
  }
  return DataConfig(**(values | overrides))


def build_dataset(data, context=None, size=SIZE, num_classes=100, repeat=False):
  return classification_input.build_dataset(
    data, size, num_classes, context, repeat=repeat
  )


def _context(pipelines, pipeline, replicas=None):
  return tf.distribute.InputContext(pipelines, pipeline, replicas or pipelines)


def _labels(dataset, batches=None):
  dataset = dataset if batches is None else dataset.take(batches)
  return [label for _, labels in dataset for label in labels.numpy().tolist()]


def _images(dataset, batches):
  return np.concatenate([images.numpy() for images, _ in dataset.take(batches)])


@pytest.mark.parametrize("pipelines", [1, 2, 3])
@pytest.mark.parametrize("num_files", [1, 4])
@pytest.mark.parametrize("num_examples", [12, 13])
def test_evaluation_counts_every_example_once(
  tmp_path, pipelines, num_files, num_examples
):
  pattern = _write_files(tmp_path, num_examples, num_files)
  options = _options(pattern, False, global_batch_size=2 * pipelines)
  per_pipeline = [
    _labels(build_dataset(options, _context(pipelines, pipeline)))
    for pipeline in range(pipelines)
  ]
  counts = collections.Counter(itertools.chain(*per_pipeline))
  padding = counts.pop(classification_input.PADDING_LABEL, 0)
  assert counts == collections.Counter(range(num_examples))
  lengths = {len(labels) for labels in per_pipeline}
  batches = -(-num_examples // (2 * pipelines))
  assert lengths == {2 * batches}
  assert padding == 2 * pipelines * batches - num_examples


def test_evaluation_gives_each_replica_of_a_pipeline_a_batch_a_step(tmp_path):
  options = _options(_write_files(tmp_path, 9, 1), False)
  dataset = build_dataset(options, _context(1, 0, replicas=4))
  labels = _labels(dataset)
  assert sorted(labels) == [-1] * 3 + list(range(9))
  steps = input_pipeline.evaluation_steps(9, 4, _context(1, 0, replicas=4))
  assert len(list(dataset)) == 4 * steps
  assert dataset.element_spec[1].shape == [1]


@pytest.mark.parametrize("cache", [False, True])
def test_a_repeated_evaluation_is_the_same_each_time(tmp_path, cache):
  pattern = _write_files(tmp_path, 9, 2)
  once, repeated = (
    build_dataset(_options(pattern, False, cache=cache), repeat=repeat)
    for repeat in (False, True)
  )
  np.testing.assert_array_equal(
    _images(repeated, 9), np.concatenate([_images(once, 3)] * 3)
  )
  assert _labels(repeated, 9) == 3 * _labels(once)


def test_padding_is_black_and_last(tmp_path):
  options = _options(_write_files(tmp_path, 5, 2), False)
  images, labels = list(build_dataset(options))[-1]
  np.testing.assert_array_equal(labels[1:], [-1, -1, -1])
  np.testing.assert_array_equal(images[1:], np.zeros((3, 16, 12, 3)))
  assert labels[0] >= 0


@pytest.mark.parametrize("stated", [5, 9])
def test_evaluation_refuses_a_wrong_number_of_examples(tmp_path, stated):
  options = _options(_write_files(tmp_path, 7, 2), False, num_examples=stated)
  with pytest.raises(tf.errors.FailedPreconditionError, match=str(stated + 1)):
    _labels(build_dataset(options))  # the first record is read a second time


@pytest.mark.parametrize("native", ["0", "1"])
def test_evaluation_preprocesses_as_serving_does(tmp_path, monkeypatch, native):
  monkeypatch.setenv(library.SWITCH, native)
  options = _options(_write_files(tmp_path, 6, 2), False)
  for images, labels in build_dataset(options):
    for image, label in zip(images.numpy(), labels.numpy().tolist(), strict=True):
      if label >= 0:
        expected = inception_preprocessing.preprocess_for_eval(_pixels(label), 16, 12)
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(
  ("examples", "pipelines", "replicas", "steps"),
  [(9, 1, 1, 3), (8, 1, 1, 2), (8, 2, 2, 2), (9, 2, 2, 3), (9, 1, 4, 3), (5, 2, 4, 2)],
)
def test_evaluation_steps(examples, pipelines, replicas, steps):
  context = _context(pipelines, 0, replicas)
  assert input_pipeline.evaluation_steps(examples, 4, context) == steps


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("preprocessing", PREPROCESSINGS)
def test_shapes_are_static(tmp_path, is_training, preprocessing):
  pattern = _write_files(tmp_path, 6, 2)
  options = _options(pattern, is_training, preprocessing=preprocessing)
  images, labels = build_dataset(options, _context(1, 0, replicas=2)).element_spec
  assert images == tf.TensorSpec([2, 16, 12, 3], tf.float32)
  assert labels == tf.TensorSpec([2], tf.int32)


def test_images_for_the_device_are_a_quarter_of_the_bytes(tmp_path):
  options = _options(_write_files(tmp_path, 6, 2), True)
  sizes = []
  for on_device in (False, True):
    options.preprocessing_options.preprocess_on_device = on_device
    batch = next(iter(build_dataset(options, size=(64, 64))))
    sizes.append(sum(tensor.numpy().nbytes for tensor in tf.nest.flatten(batch)))
  image, rest = 4 * 64 * 64 * 3, 4 * 4  # bytes of a batch as uint8; its labels
  assert sizes == [4 * image + rest, image + 4 * 2 * 4 + rest]


@pytest.mark.parametrize("num_files", [4, 3])  # by files, by records
@pytest.mark.parametrize("cache", [False, True])
def test_training_pipelines_share_each_epoch(tmp_path, num_files, cache):
  pattern = _write_files(tmp_path, 12, num_files)
  options = _options(pattern, True, global_batch_size=2, cache=cache)
  datasets = [build_dataset(options, _context(2, i)) for i in range(2)]
  first, second = (_labels(dataset, 18) for dataset in datasets)  # three epochs of 6
  for epoch in range(3):
    seen = [labels[6 * epoch : 6 * epoch + 6] for labels in (first, second)]
    assert sorted(seen[0] + seen[1]) == list(range(12))
  assert first[:6] != first[6:12]


@pytest.fixture
def set_global_seed():
  yield tf.random.set_seed
  tf.random.set_seed(None)


def test_the_order_ignores_the_global_seed_of_a_process(tmp_path, set_global_seed):
  options = _options(_write_files(tmp_path, 12, 4), True, global_batch_size=2)
  seen = []
  for seed in range(3):
    set_global_seed(seed)
    datasets = [build_dataset(options, _context(2, i)) for i in range(2)]
    seen.append([_labels(dataset, 12) for dataset in datasets])
  assert sorted(seen[0][0][:6] + seen[1][1][:6]) == list(range(12))
  assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("cache", [False, True])
def test_training_follows_from_the_seed(tmp_path, cache):
  pattern = _write_files(tmp_path, 12, 3)
  options = _options(pattern, True, seed=7, cache=cache)
  again = _options(pattern, True, seed=7, cache=cache)
  other = _options(pattern, True, seed=8, cache=cache)
  labels = _labels(build_dataset(options), 6)
  assert labels == _labels(build_dataset(again), 6)
  assert labels != _labels(build_dataset(other), 6)
  images = _images(build_dataset(options), 6)
  np.testing.assert_array_equal(images, _images(build_dataset(again), 6))


def test_every_epoch_augments_differently(tmp_path):
  options = _options(_write_files(tmp_path, 1, 1), True, global_batch_size=1)
  images = _images(build_dataset(options), 5)
  assert len(np.unique(images, axis=0)) == 5


def test_pipelines_distort_differently(tmp_path):
  options = _options(
    _write_files(tmp_path, 2, 2),
    True,
    global_batch_size=2,
    preprocessing_options=PreprocessingOptions(crop=False),
  )
  seen = []
  for pipeline in range(2):
    dataset = build_dataset(options, _context(2, pipeline)).take(12)
    seen.append(
      {(int(labels[0]), images.numpy().tobytes()) for images, labels in dataset}
    )
  assert {label for label, _ in seen[0]} == {label for label, _ in seen[1]} == {0, 1}
  assert not seen[0] & seen[1]


def test_labels_stay_with_their_images(tmp_path):
  options = _options(
    _write_files(tmp_path, 10, 3),
    True,
    preprocessing_options=UNDISTORTED,
    deterministic=False,
  )
  for images, labels in build_dataset(options).take(6):
    for image, label in zip(images, labels.numpy().tolist(), strict=True):
      expected = inception_preprocessing.preprocess_for_eval(
        _pixels(label), *SIZE, PreprocessingOptions(central_fraction=1.0)
      )
      np.testing.assert_allclose(image, expected, atol=1e-6)


@pytest.mark.parametrize("encode", [tf.io.encode_jpeg, tf.io.encode_png])
def test_model_garden_preprocessing_is_model_gardens(tmp_path, encode):
  """Against its own task's evaluation input, on the same records."""
  pattern = _write_files(tmp_path, 8, 1, encode)
  config = upstream_configs.ImageClassificationTask(
    model=upstream_configs.ImageClassificationModel(
      num_classes=100, input_size=[16, 12, 3]
    )
  )
  params = upstream_configs.DataConfig(
    input_path=pattern,
    is_training=False,
    global_batch_size=4,
    dtype="float32",
    decode_jpeg_only=encode is tf.io.encode_jpeg,
  )
  theirs = upstream_task.ImageClassificationTask(config).build_inputs(params)
  ours = build_dataset(_options(pattern, False, preprocessing="model_garden"))
  for (our_images, our_labels), (images, labels) in zip(ours, theirs, strict=True):
    np.testing.assert_array_equal(our_labels, labels)
    np.testing.assert_allclose(our_images, images, atol=1e-5)


@pytest.mark.parametrize("preprocessing", ["inception", "model_garden"])
def test_alpha_in_records_made_elsewhere_is_composited(tmp_path, preprocessing):

  def transparent(rgb):
    return np.concatenate([rgb, np.full_like(rgb[..., :1], 51)], axis=-1)

  def composited(rgb):
    return np.rint(rgb * 0.2).astype(np.uint8)

  batches = []
  for name, change in {"a": transparent, "b": composited}.items():
    (tmp_path / name).mkdir()
    pattern = _write_files(
      tmp_path / name, 4, 1, lambda rgb, change=change: tf.io.encode_png(change(rgb))
    )
    options = _options(pattern, False, preprocessing=preprocessing)
    batches.append(_images(build_dataset(options), 1))
  np.testing.assert_array_equal(*batches)


@pytest.mark.parametrize("flip", [True, False])
def test_model_garden_preprocessing_honours_flip_and_crop(tmp_path, flip):
  options = _options(
    _write_files(tmp_path, 1, 1),
    True,
    preprocessing="model_garden",
    preprocessing_options=PreprocessingOptions(crop=False, flip=flip),
  )
  images = np.unique(_images(build_dataset(options), 8).round(4), axis=0)
  assert len(images) == (2 if flip else 1)
  if flip:
    np.testing.assert_allclose(images[0], images[1][:, ::-1], atol=1e-4)


def test_a_label_outside_the_classes_stops_the_pipeline(tmp_path):
  options = _options(_write_files(tmp_path, 6, 1), True)
  with pytest.raises(tf.errors.InvalidArgumentError, match="has the label"):
    _labels(build_dataset(options, num_classes=5), 3)


def test_records_without_a_label_stop_the_pipeline(tmp_path):
  """The check at the start says which key is missing (test_record_check.py)."""
  options = _options(_write_files(tmp_path, 4, 1), False, label_field_key="image/label")
  with pytest.raises(tf.errors.FailedPreconditionError, match="contained only 0"):
    _labels(build_dataset(options))


def test_replicas_must_divide_the_batch(tmp_path):
  options = _options(_write_files(tmp_path, 4, 1), True, global_batch_size=10)
  with pytest.raises(errors.UserError, match=r"10 .* 4 replicas.* multiple of 4"):
    build_dataset(options, _context(1, 0, replicas=4))


def test_fewer_examples_than_pipelines_is_an_error(tmp_path):
  options = _options(_write_files(tmp_path, 2, 1), True, global_batch_size=3)
  with pytest.raises(errors.UserError, match=r"2 training examples .* 3 input"):
    build_dataset(options, _context(3, 0))


@pytest.mark.parametrize(
  ("overrides", "text"),
  [
    ({"preprocessing": "incepton"}, "Did you mean 'inception'"),
    ({"global_batch_size": 0}, "global_batch_size is 0"),
    ({"max_corrupt_records": -1}, "max_corrupt_records is -1"),
    (
      {
        "preprocessing_options": PreprocessingOptions(
          preprocess_on_device=True, fast_mode=False
        )
      },
      "preprocess_on_device is True, .* fast_mode False",
    ),
    (
      {
        "preprocessing": "model_garden",
        "preprocessing_options": PreprocessingOptions(preprocess_on_device=True),
      },
      "preprocess_on_device is True, preprocessing 'model_garden'",
    ),
  ],
)
def test_the_data_config_is_checked(overrides, text):
  with pytest.raises(errors.UserError, match=text):
    build_dataset(_options("train-*", True, **overrides))


def test_the_size_and_the_classes_are_checked():
  with pytest.raises(errors.UserError, match="image height is 0"):
    build_dataset(_options("train-*", True), size=(0, 8))
  with pytest.raises(errors.UserError, match="num_classes is 1; it must be at least 2"):
    build_dataset(_options("train-*", True), num_classes=1)
