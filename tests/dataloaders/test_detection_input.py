"""A detector's input yields images, padded boxes and what the evaluator takes."""

import numpy as np
import pytest
import tensorflow as tf
from helpers_detection_records import (
  DataConfig,
  box_image,
  detection_record,
  write_records,
)
from official.vision.evaluation import coco_evaluator

from mnv2_hpu import error_reports
from mnv2_hpu.dataloaders import detection_input
from mnv2_hpu.dataloaders.input_fields import DetectionOptions
from mnv2_hpu.errors import UserError

SIZE = (48, 40)
NUM_CLASSES = 5  # background included
PLAIN = {"flip": False, "random_crop": "none"}


def _data(path, is_training, options=(), **overrides):
  values = {
    "input_path": str(path),
    "global_batch_size": 4,
    "is_training": is_training,
    "shuffle_buffer_size": 8,
    "preprocessing_options": DetectionOptions(max_boxes=3, **dict(options)),
  }
  return DataConfig(**(values | overrides))


def _build(data, context=None, **options):
  return detection_input.build_dataset(data, SIZE, NUM_CLASSES, context, **options)


def _first(path, is_training, options=(), **overrides):
  return next(iter(_build(_data(path, is_training, options, **overrides))))


def _boxes(random, count):
  begin, sides = random.uniform(0.0, 0.5, (2, count, 2))
  return np.concatenate([begin, begin + sides.clip(0.2)], axis=1).astype(np.float32)


@pytest.fixture(name="scenes", scope="module")
def fixture_scenes(tmp_path_factory):
  """Eleven images in two files: one has no box, the others one or two."""
  random, folder = np.random.RandomState(1), tmp_path_factory.mktemp("scenes")
  records = []
  for number in range(11):
    boxes = _boxes(random, number % 3)
    labels = random.randint(1, NUM_CLASSES, len(boxes))
    records.append(detection_record(str(100 + number), boxes, labels))
  write_records(folder / "train-0", records[:6])
  write_records(folder / "train-1", records[6:])
  return folder / "train-*"


@pytest.mark.parametrize("is_training", [True, False])
def test_shapes_are_static(scenes, is_training):
  images, labels = _build(_data(scenes, is_training)).element_spec
  assert images == tf.TensorSpec([4, 48, 40, 3], tf.float32)
  assert labels["boxes"] == tf.TensorSpec([4, 3, 4], tf.float32)
  assert labels["classes"] == tf.TensorSpec([4, 3], tf.int32)
  assert labels["num_boxes"] == tf.TensorSpec([4], tf.int32)
  for spec in tf.nest.flatten(labels):
    assert spec.shape.is_fully_defined()


def test_what_is_no_object_is_dropped_in_training(tmp_path):
  boxes = [
    [0.1, 0.1, 0.5, 0.5],
    [0.2, 0.2, 0.2, 0.6],  # no area
    [0.5, 0.6, 1.0000001, 0.9],  # rounding of whoever wrote it
    [0.0, 0.0, 1.0, 1.0],  # a crowd
    [0.9, 0.3, 0.4, 0.5],  # inverted
  ]
  crowds = np.array([0, 0, 0, 1, 0])
  record = detection_record("1", boxes, [1, 2, 3, 4, 1], image__object__is_crowd=crowds)
  path = write_records(tmp_path / "train", [record] * 4)
  images, labels = _first(path, True, PLAIN)
  kept = [boxes[0], [0.5, 0.6, 1.0, 0.9], [0, 0, 0, 0]]
  np.testing.assert_allclose(labels["boxes"][0], kept, rtol=1e-6)
  np.testing.assert_array_equal(labels["classes"][0], [1, 3, -1])
  np.testing.assert_array_equal(labels["num_boxes"], [2] * 4)
  assert -1 <= images.numpy().min() < -0.9
  assert images.numpy().max() == 1


def test_more_boxes_than_the_maximum(tmp_path):
  boxes = _boxes(np.random.RandomState(0), 5)
  record = detection_record("1", boxes, [1, 2, 3, 4, 1])
  path = write_records(tmp_path / "train", [record] * 4)
  _, labels = _first(path, True, PLAIN)
  np.testing.assert_allclose(labels["boxes"][0], boxes[:3], rtol=1e-6)
  assert labels["num_boxes"].numpy().tolist() == [3] * 4


@pytest.mark.parametrize("options", [{}, {"flip": False}, {"random_crop": "none"}])
def test_boxes_go_where_their_object_goes(tmp_path, options):
  """The white object lies in its box after the crop, the mirror and the resize."""
  box = np.array([0.25, 0.125, 0.75, 0.5])
  image = box_image(box, height=240, width=320)
  path = write_records(
    tmp_path / "train", [detection_record("1", [box], [2], image=image)] * 4
  )
  shapes = set()
  for images, labels in _build(_data(path, True, options)).take(10):
    for pixels, boxes in zip(images.numpy(), labels["boxes"].numpy(), strict=True):
      rows, columns = np.nonzero(pixels[..., 0] > 0.2)
      found = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
      # Of a window of a tenth, a pixel of the image is three of the network's.
      np.testing.assert_allclose(found, boxes[0] * [48, 40, 48, 40], atol=2.5)
      shapes.add(tuple(boxes[0].round(3)))
  assert len(shapes) == 2 if options.get("random_crop") else len(shapes) > 10


def test_a_seed_draws_the_same_and_another_other_crops(scenes):
  def read(seed):
    return [tf.nest.flatten(b) for b in _build(_data(scenes, True, seed=seed)).take(3)]

  first, again, other = read(0), read(0), read(1)
  for one, two in zip(first, again, strict=True):
    for a, b in zip(one, two, strict=True):
      np.testing.assert_array_equal(a, b)
  assert not np.array_equal(first[0][0], other[0][0])


@pytest.mark.parametrize("pipelines", [1, 2])
def test_a_resumed_input_is_the_uninterrupted_one(scenes, pipelines):
  """Over the border of an epoch, augmentation included."""
  for pipeline in range(pipelines):
    context = tf.distribute.InputContext(pipelines, pipeline, pipelines)
    whole = list(_build(_data(scenes, True), context).take(7))
    resumed = _build(_data(scenes, True), context, start_step=4).take(3)
    for expected, batch in zip(whole[4:], resumed, strict=True):
      for a, b in zip(*map(tf.nest.flatten, (expected, batch)), strict=True):
        np.testing.assert_array_equal(a, b)


def _detections(labels):
  """Perfect detections, as a detector gives them to Model Garden's evaluator."""
  truth = labels["groundtruths"]
  scale = tf.tile(labels["image_info"][:, 2:3], [1, 1, 2])
  return {
    "detection_boxes": truth["boxes"] * scale,
    "detection_classes": truth["classes"],
    "detection_scores": tf.cast(truth["classes"] > 0, tf.float32),
    "num_detections": truth["num_detections"],
    "source_id": truth["source_id"],
    "image_info": labels["image_info"],
  }


def test_the_evaluator_finds_perfect_detections_perfect(tmp_path):
  """Of images of several sizes, ids that are text among them, and a padded batch."""
  random, records = np.random.RandomState(2), []
  for number in range(5):
    boxes, height = _boxes(random, 2), 40 + 10 * number
    records.append(
      detection_record(
        ("7", "2007_000032.jpg", "x" * 30, "998", "0")[number],
        boxes,
        [1 + number % 4, 4],
        box_image(boxes[0], height, 50),
        image__height=height,
        image__width=50,
        image__object__is_crowd=np.array([0, number % 2]),
      )
    )
  path = write_records(tmp_path / "val", records)
  evaluator = coco_evaluator.COCOEvaluator(None, include_mask=False)
  ids, weights = [], []
  for images, labels in _build(_data(path, False)):
    assert images.shape == [4, 48, 40, 3]
    real = labels["groundtruths"]["source_id"] != detection_input.PADDING_SOURCE_ID
    weights += labels["image_weight"].numpy().tolist()
    ids += labels["groundtruths"]["source_id"].numpy().tolist()
    np.testing.assert_array_equal(real, labels["image_weight"] == 1)
    labels = tf.nest.map_structure(lambda part, r=real: part[r], labels)
    evaluator.update_state(labels["groundtruths"], _detections(labels))
  assert weights == [1.0] * 5 + [0.0] * 3
  assert len(set(ids)) == 6
  assert ids[5:] == [-1] * 3
  metrics = evaluator.result()
  assert metrics["AP"] == pytest.approx(1.0)
  assert metrics["AP50"] == pytest.approx(1.0)


def test_an_evaluation_has_every_box_and_its_area(tmp_path):
  boxes = [[0.0, 0.0, 0.5, 0.5], [0.2, 0.2, 0.2, 0.6], [0.1, 0.2, 0.7, 0.8]]
  record = detection_record(
    "12",
    boxes,
    [1, 2, 3],
    image__object__is_crowd=np.array([1, 0, 0]),
    image__object__area=np.array([7.0, 8.0, 9.0]),
  )
  path = write_records(tmp_path / "val", [record])
  _, labels = _first(path, False, global_batch_size=1)
  truth = {name: value.numpy()[0] for name, value in labels["groundtruths"].items()}
  assert (truth["height"], truth["width"], truth["num_detections"]) == (60, 80, 2)
  expected = [[0, 0, 30, 40], [6, 16, 42, 64], [-1] * 4]
  np.testing.assert_allclose(truth["boxes"], expected, rtol=1e-6)
  np.testing.assert_array_equal(truth["classes"], [1, 3, -1])
  np.testing.assert_array_equal(truth["is_crowds"], [1, 0, 0])
  np.testing.assert_array_equal(truth["areas"], [7, 9, -1])
  # The validation loss is that of training: no crowd.
  np.testing.assert_array_equal(labels["classes"][0], [3, -1, -1])
  info = [[60, 80], [48, 40], [0.8, 0.5], [0, 0]]
  np.testing.assert_allclose(labels["image_info"][0], info, rtol=1e-6)


BOX = [[0.1, 0.1, 0.5, 0.5]]
NAN = [[0.1, 0.1, np.nan, 0.5]]
# A record and what is said of it.
CORRUPT = {
  "no image": (detection_record("3", BOX, [1], b""), "holds no image"),
  "text": (detection_record("3", BOX, [1], b"404"), "cannot be decoded"),
  "no id": (
    detection_record("3", BOX, [1], image__source_id=None),
    "has no text in the feature 'image/source_id'",
  ),
  "labels": (detection_record("3", BOX, [1, 2]), "2 boxes .* but 1 in .*ymin"),
  "coordinates": (
    detection_record("3", BOX, [1], image__object__bbox__xmin=None),
    "1 boxes .* but 0 in .*xmin",
  ),
  "crowds": (
    detection_record("3", BOX, [1], image__object__is_crowd=np.array([0, 1])),
    "1 boxes .* but 2 in .*is_crowd",
  ),
  "no number": (detection_record("3", NAN, [1]), "no number in .*ymax"),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_record_is_named_before_the_first_step(tmp_path, name):
  record, problem = CORRUPT[name]
  good = detection_record("1", BOX, [1])
  path = write_records(tmp_path / "val", [good, good, record])
  with pytest.raises(UserError, match=f"record 2 of .*{problem}"):
    detection_input.check_input(_data(path, False), SIZE, NUM_CLASSES)


def test_training_replaces_corrupt_records_and_an_evaluation_stops(tmp_path, caplog):
  good = [detection_record(str(i), BOX, [1 + i % 4]) for i in range(8)]
  bad = [record for record, _ in CORRUPT.values()]
  mixed = [record for pair in zip(good, bad, strict=False) for record in pair]
  path = write_records(tmp_path / "train", [*mixed, good[-1]])
  data = _data(path, True, PLAIN, max_corrupt_records=len(bad), global_batch_size=15)
  checked = detection_input.check_input(data, SIZE, NUM_CLASSES)
  assert (checked.num_examples, checked.labels) == (15, (1, 2, 3, 4))
  caplog.clear()
  _, labels = next(iter(_build(data)))
  assert labels["num_boxes"].numpy().tolist() == [1] * 15
  assert "Replaced: corrupt record 6 of at most 7" in caplog.text
  with pytest.raises(tf.errors.OpError, match="max_corrupt_records allows 0"):
    list(_build(_data(path, False)))


@pytest.mark.parametrize("label", [0, 5])
def test_a_label_outside_the_classes_stops(tmp_path, label):
  good = detection_record("1", BOX, [4])
  bad = detection_record("2", BOX * 2, [1, label])
  path = write_records(tmp_path / "train", [good, bad, good])
  message = f"has a box with the label {label}; allowed are 1 to 4"
  with pytest.raises(UserError, match=f"record 1 of .* {message}"):
    detection_input.check_input(_data(path, True), SIZE, NUM_CLASSES)
  for is_training in (True, False):
    with pytest.raises(tf.errors.OpError) as caught:
      list(_build(_data(path, is_training)).take(2))
    assert message in error_reports.explain(caught.value)


@pytest.mark.parametrize(
  ("options", "overrides", "message"),
  [
    ({"random_crop": "sdd"}, {}, "random_crop: 'sdd' is unknown.*ssd"),
    ({"max_boxes": 0}, {}, "max_boxes is 0; it must be at least 1"),
    ({}, {"shuffle_buffer_size": 0}, "shuffle_buffer_size is 0"),
  ],
)
def test_impossible_settings(scenes, options, overrides, message):
  data = _data(scenes, True, **overrides)
  data.preprocessing_options.override(options)
  with pytest.raises(UserError, match=message):
    _build(data)
