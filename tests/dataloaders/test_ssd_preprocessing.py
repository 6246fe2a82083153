"""The SSD augmentation draws what the TF Object Detection API draws."""

import golden_detection
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.dataloaders import ssd_preprocessing

SIZE = (240, 320)


@pytest.fixture(name="draws", scope="module")
def fixture_draws():
  draws, _ = golden_detection.load("augmentation.npz")
  return {k: v.astype(np.int32) if "crops" in k else v for k, v in draws.items()}


@tf.function
def _windows(boxes, seeds):
  def draw(seed):
    return ssd_preprocessing.draw_window(tf.constant([*SIZE, 3]), boxes, seed)

  kinds = (tf.int32, tf.int32, tf.float32, tf.float32)
  return tf.map_fn(draw, seeds, fn_output_signature=kinds)


def _draw(boxes, count):
  """Draws as many crops as the reference: top, left, height, width; shares."""
  seeds = tf.stack([tf.fill([count], 7), tf.range(count)], axis=1)
  begin, size, windows, covered = _windows(tf.constant(boxes), seeds)
  return np.concatenate([begin[:, :2], size[:, :2]], 1), windows, covered.numpy()


def _kept(boxes, windows, covered):
  """Returns which of the boxes each window keeps, `[windows, boxes]`."""

  def keep(pair):
    rows = tf.range(len(boxes))
    _, kept = ssd_preprocessing.boxes_in_window(tf.constant(boxes), rows, *pair)
    return tf.reduce_any(kept[:, tf.newaxis] == rows, axis=0)

  @tf.function
  def keep_all(*pairs):
    return tf.map_fn(keep, pairs, fn_output_signature=tf.bool)

  return keep_all(tf.constant(windows), tf.constant(covered)).numpy()


def _distance(one, other):
  """Returns Kolmogorov's and Smirnov's distance of two samples."""
  places = np.sort(np.concatenate([one, other]))
  shares = [
    np.searchsorted(np.sort(sample), places, side="right") / len(sample)
    for sample in (one, other)
  ]
  return np.abs(shares[0] - shares[1]).max()


def _assert_same_shares(one, other, draws):
  """Compares two shares of as many draws, at three standard errors and a bit."""
  share = (one + other) / 2
  assert abs(one - other) <= 3.5 * np.sqrt(2 * share * (1 - share) / draws) + 1e-9


def _assert_same_crops(ours, theirs):
  """Compares the distributions of the crops that leave something out."""
  unchanged = [(crops[:, 2:] == SIZE).all(axis=1) for crops in (ours, theirs)]
  _assert_same_shares(*(u.mean() for u in unchanged), len(ours))
  ours, theirs = ours[~unchanged[0]], theirs[~unchanged[1]]
  limit = 1.63 * np.sqrt(1 / len(ours) + 1 / len(theirs))  # one test in a hundred fails
  measures = {
    "top": lambda crops: crops[:, 0],
    "left": lambda crops: crops[:, 1],
    "area": lambda crops: crops[:, 2] * crops[:, 3],
    "aspect ratio": lambda crops: crops[:, 3] / crops[:, 2],
  }
  distances = {n: _distance(f(ours), f(theirs)) for n, f in measures.items()}
  assert max(distances.values()) <= limit, distances
  return max(distances.values()), limit


@pytest.mark.fidelity
def test_crops_of_four_boxes_are_distributed_as_the_original_s(draws, fidelity):
  count = len(draws["crops"])
  ours, windows, covered = _draw(draws["boxes"], count)
  distance, limit = _assert_same_crops(ours, draws["crops"])
  fidelity(
    "SSD's random crop: place, area, aspect ratio (Kolmogorov-Smirnov)",
    *[f"{count:,} draws"] * 2,
    distance,
    f"{limit:.2g}",
  )
  kept = _kept(draws["boxes"], windows, covered)
  for box in range(4):
    _assert_same_shares(kept[:, box].mean(), draws["kept"][:, box].mean(), count)
  for number in range(5):
    shares = [(k.sum(axis=1) == number).mean() for k in (kept, draws["kept"])]
    _assert_same_shares(*shares, count)


@pytest.mark.fidelity
@pytest.mark.parametrize("name", ["one_big_box", "no_boxes"])
def test_crops_of_one_box_and_of_none(draws, name):
  theirs = draws[f"crops_{name}"]
  boxes = draws.get(name, np.zeros([0, 4], np.float32))
  ours, _, _ = _draw(boxes, len(theirs))
  _assert_same_crops(ours, theirs)


@pytest.mark.fidelity
def test_the_original_s_crops_keep_the_boxes_that_it_keeps(draws, fidelity):
  begin, size = draws["crops"][:, :2], draws["crops"][:, 2:]
  sides = np.array(SIZE, np.float32)
  windows = np.concatenate([begin / sides, (begin + size) / sides], axis=1)
  thresholds = np.array(ssd_preprocessing.MIN_OBJECT_COVERED, np.float32)
  covered = np.where(draws["unchanged"], 0, thresholds[draws["choice"]])
  kept = _kept(draws["boxes"], windows.astype(np.float32), covered.astype(np.float32))
  np.testing.assert_array_equal(kept, draws["kept"])
  counts = [f"{k.sum():,} of {k.size:,} boxes" for k in (draws["kept"], kept)]
  fidelity("boxes kept by the original's crops", *counts, "none", "none")


# Box, share to be covered by the window [0.2, 0.4, 0.7, 0.9], and what is left of it.
BOXES_IN_WINDOW = {
  "inside": ([0.3, 0.5, 0.6, 0.8], 1.0, [0.2, 0.2, 0.8, 0.8]),
  "a quarter": ([0.6, 0.8, 0.8, 1.0], 0.2, [0.8, 0.8, 1.0, 1.0]),
  "too little": ([0.6, 0.8, 0.8, 1.0], 0.3, None),
  "a touch, all count": ([0.1, 0.1, 0.2001, 0.4001], 0.0, [0, 0, 0.0002, 0.0002]),
  "only the border": ([0.1, 0.5, 0.2, 0.6], 0.0, None),
  "around it": ([0.0, 0.0, 1.0, 1.0], 0.2, [0, 0, 1, 1]),
  "around it, too large": ([0.0, 0.0, 1.0, 1.0], 0.3, None),
}


@pytest.mark.parametrize("name", BOXES_IN_WINDOW)
def test_a_box_is_kept_by_the_covered_share_of_its_own_area(name):
  box, covered, expected = BOXES_IN_WINDOW[name]
  boxes, classes = ssd_preprocessing.boxes_in_window(
    tf.constant([box]), tf.constant([5]), tf.constant([0.2, 0.4, 0.7, 0.9]), covered
  )
  expected = np.zeros([0, 4]) if expected is None else [expected]
  np.testing.assert_allclose(boxes, expected, atol=1e-6)
  assert classes.numpy().tolist() == [5] * len(expected)


def test_one_half_is_mirrored_with_its_boxes():
  image = tf.reshape(tf.range(12, dtype=tf.int32), [2, 6, 1])
  box = tf.constant([[0.1, 0.2, 0.3, 0.6]])
  mirrored = 0
  for number in range(400):
    seed = tf.constant([3, number])
    out, boxes = ssd_preprocessing.random_flip(image, box, seed)
    is_mirrored = bool(out[0, 0, 0] == 5)
    mirrored += is_mirrored
    np.testing.assert_array_equal(out, image[:, ::-1] if is_mirrored else image)
    left, right = (0.4, 0.8) if is_mirrored else (0.2, 0.6)
    np.testing.assert_allclose(boxes, [[0.1, left, 0.3, right]], rtol=1e-6)
  assert abs(mirrored - 200) < 35


def test_the_same_seed_draws_the_same():
  seed, boxes = tf.constant([1, 2]), tf.constant([[0.1, 0.1, 0.9, 0.9]])
  image = tf.random.stateless_uniform([30, 40, 3], seed)
  first, second = (
    ssd_preprocessing.random_crop(image, boxes, tf.constant([1]), seed)
    for _ in range(2)
  )
  for one, other in zip(first, second, strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.mark.fidelity
@pytest.mark.parametrize(
  ("case", "shape", "size"),
  [(0, (480, 640), 300), (1, (640, 427), 320), (2, (123, 211), 300)],
)
def test_the_network_s_input_is_the_original_s(case, shape, size, fidelity):
  golden, _ = golden_detection.load("preprocess.npz")
  image = golden_detection.uint8_image(2400 + case, *shape)
  ours = ssd_preprocessing.preprocess_image(tf.constant(image), (size, size)).numpy()
  difference = np.abs(ours[::15, ::15] - golden[f"{case}/every_15"]).max()
  assert difference <= 1e-6
  sizes = "{}x{} to {size}x{size}".format(*shape, size=size)
  fidelity("a detector's input", *[sizes] * 2, difference, 1e-6)
  values = ours.astype(np.float64).ravel()
  checksum = [values.sum(), np.linalg.norm(values), values[0], values[-1]]
  expected = golden[f"{case}/ck"]
  np.testing.assert_allclose(checksum, expected, atol=1e-6 * expected[1])
