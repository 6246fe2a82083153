"""Drop path: how often it drops, when, and that a step repeats what it has drawn."""

import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.compat import keras
from mnv2_hpu.modeling import stateless_dropout
from mnv2_hpu.modeling.stateless_dropout import DropPath, dropout_step

ONES = tf.ones([4000, 1, 1, 2])


def stateless_path(keep_prob, total_steps=100):
  inner = keras.Input([1, 1, 2])
  path = DropPath(keep_prob, total_steps)
  nested = keras.Model(inner, path(inner))
  outer = keras.Input([1, 1, 2])
  stateless_dropout.make_dropout_stateless(keras.Model(outer, nested(outer)), seed=3)
  return path


@pytest.mark.parametrize(
  ("step", "keep"), [(0, 1.0), (25, 0.9), (50, 0.8), (100, 0.6), (1000, 0.6)]
)
def test_whole_examples_are_dropped_more_often_as_training_goes_on(step, keep):
  path = stateless_path(0.6)
  assert float(path.keep_prob_at(step)) == pytest.approx(keep)
  with dropout_step(tf.constant(step, tf.int64)):
    outputs = path(ONES, training=True).numpy()[:, 0, 0]
  kept = outputs[:, 0] > 0
  np.testing.assert_array_equal(outputs[:, 0], outputs[:, 1])
  np.testing.assert_allclose(outputs[kept], 1 / keep, rtol=1e-6)
  assert kept.mean() == pytest.approx(keep, abs=4 * np.sqrt(0.24 / 4000))


def test_a_step_repeats_what_it_has_drawn_and_others_differ():
  path = stateless_path(0.5)

  def draw(step):
    with dropout_step(step):
      return path(ONES, training=True).numpy()

  np.testing.assert_array_equal(draw(100), draw(100))
  assert (draw(100) != draw(101)).any()


def test_layers_of_one_network_draw_each_their_own():
  images = keras.Input([1, 1, 2])
  paths = [DropPath(0.5, 1), DropPath(0.5, 1)]
  nested = keras.Model(images, [path(images) for path in paths])
  stateless_dropout.make_dropout_stateless(keras.Model(images, nested(images)), seed=0)
  with dropout_step(5):
    first, second = nested(ONES, training=True)
  assert (first.numpy() != second.numpy()).any()


def test_nothing_is_dropped_in_evaluation_or_where_it_is_frozen():
  path = stateless_path(0.5)
  np.testing.assert_array_equal(path(ONES, training=False), ONES)
  path.trainable = False
  with dropout_step(100):
    np.testing.assert_array_equal(path(ONES, training=True), ONES)


def test_tasks_of_model_garden_which_give_no_step_have_it_at_its_end():
  kept = DropPath(0.6, 100)(ONES, training=True).numpy() > 0
  assert kept.mean() == pytest.approx(0.6, abs=0.04)
