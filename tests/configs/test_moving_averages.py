"""The warning before a training too short for its moving averages."""

import pytest

import mnv2_hpu
from mnv2_hpu.configs import image_classification, moving_averages
from mnv2_hpu.configs.recipe import Recipe

mnv2_hpu.register()


def _warning(**values):
  recipe = Recipe(data_dir="data", num_classes=5, num_train_examples=160, **values)
  return moving_averages.warning(image_classification.experiment(recipe))


def test_too_few_steps_are_said_with_the_steps_needed():
  warning = _warning(train_epochs=50, norm_momentum=0.99, ema_decay=0.999)
  for text in ("83 steps are few", "norm_momentum 0.99 and ema_decay 0.999"):
    assert text in warning
  assert "half-life is 693 steps" in warning
  assert "Train 4,850 steps or more" in warning


def test_only_the_slow_average_is_named():
  warning = _warning(train_epochs=400, norm_momentum=0.99, ema_decay=0.999)
  assert "norm_momentum" not in warning
  assert "ema_decay 0.999" in warning


@pytest.mark.parametrize(
  "values",
  [
    {"train_epochs": 400, "norm_momentum": 0.9, "ema_decay": 0.99},
    {"train_epochs": 50, "norm_momentum": 0.9, "ema_decay": 0.0},
    {"train_epochs": 1, "norm_momentum": 1.0, "ema_decay": 0.0},  # never moves
    {"train_epochs": 1, "freeze_backbone": True, "ema_decay": 0.0},
    dict.fromkeys(("batch_size", "train_epochs", "norm_momentum", "ema_decay")),
  ],
)
def test_enough_steps_need_no_warning(values):
  assert not _warning(**values)


def test_what_was_chosen_is_not_to_be_chosen_again():
  assert "bind norm_momentum to None" in _warning(
    train_epochs=1, norm_momentum=0.99, ema_decay=None
  )
  warning = _warning(train_epochs=1, norm_momentum=None, ema_decay=None)
  assert "steps are few" in warning
  assert "to None" not in warning
