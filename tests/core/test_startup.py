"""What a run is warned of before its first step."""

import pytest

from mnv2_hpu.configs import image_classification
from mnv2_hpu.configs.recipe import Recipe
from mnv2_hpu.core import startup


@pytest.mark.parametrize("schedule", ["exponential", "exponential_slim"])
@pytest.mark.parametrize(("warmup_epochs", "warns"), [(1, False), (2, True), (5, True)])
def test_a_warm_up_as_long_as_the_training_is_noticed(schedule, warmup_epochs, warns):
  recipe = Recipe(
    data_dir="unused",
    num_classes=10,
    num_train_examples=320,
    num_validation_examples=32,
    batch_size=32,
    train_epochs=2,
    warmup_epochs=warmup_epochs,
    learning_rate_schedule=schedule,
  )
  text = startup.warmup_warning(image_classification.experiment(recipe)) or ""
  assert ("as long as the training of 20" in text) == warns
