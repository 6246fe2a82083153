import zlib

import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.distribute import rank_check, ranks


@pytest.fixture
def two_ranks(monkeypatch):
  """Returns a function that says what another rank holds, which `gather` then adds."""
  monkeypatch.setattr(ranks, "size", lambda _: 2)

  def others(variables, step):
    own = np.array([rank_check.checksum(v.numpy()) for v in variables], np.uint32)
    answers = {
      (3,): np.array([step, len(own), zlib.crc32(own.tobytes())], np.int64),
      own.shape: own,
      **{v.numpy().shape: v.numpy() for v in variables if v.shape != own.shape},
    }
    monkeypatch.setattr(
      ranks, "gather", lambda _, value: np.stack([value, answers[value.shape]])
    )

  return others


def _variables(value=0.0):
  return [
    tf.Variable(tf.zeros([2, 2]), name="kernel"),
    tf.Variable([1.0, value, 3.0, 4.0, 5.0], name="bias"),
  ]


def test_checksum_sees_places_types_and_shapes():
  base = np.array([1.0, 2.0], np.float32)
  others = [
    base[::-1],
    base.reshape(2, 1),
    base.view(np.int32),
    np.array([1.0, np.nextafter(np.float32(2), np.float32(3))], np.float32),
  ]
  sums = {rank_check.checksum(value) for value in (base, *others)}
  assert len(sums) == 5
  assert rank_check.checksum(base.copy()) == rank_check.checksum(base)
  assert rank_check.checksum(np.float32(-0.0)) != rank_check.checksum(np.float32(0.0))


def test_equal_ranks_pass(two_ranks):
  two_ranks(_variables(), step=7)
  rank_check.check(tf.distribute.get_strategy(), _variables(), step=7)


def test_the_first_differing_variable_is_named_with_its_size_and_distance(two_ranks):
  two_ranks(_variables(value=0.25), step=7)
  with pytest.raises(
    rank_check.RanksDifferError,
    match=r"at step 7, rank 1 and rank 0 differ: 1 of 2 variables, the first of them "
    r"'bias:0' of shape \[5\], 5 values, up to 0.25 apart",
  ):
    rank_check.check(tf.distribute.get_strategy(), _variables(), step=7)


def test_ranks_at_different_steps_are_told(two_ranks):
  two_ranks(_variables(), step=140)
  with pytest.raises(
    rank_check.RanksDifferError, match=r"at step 2642 on rank 0, 140 on rank 1"
  ):
    rank_check.check(tf.distribute.get_strategy(), _variables(), step=2642)


def test_ranks_with_different_numbers_of_variables_are_told(two_ranks):
  two_ranks(_variables()[:1], step=7)
  with pytest.raises(
    rank_check.RanksDifferError, match=r"variables is 2 on rank 0, 1 on rank 1"
  ):
    rank_check.check(tf.distribute.get_strategy(), _variables(), step=7)


def test_one_process_has_nothing_to_compare():
  strategy = tf.distribute.get_strategy()
  assert rank_check.find_difference(strategy, _variables(), step=1) is None
