"""What several ranks do to steps, epochs and learning rate, against a table by hand."""

import pytest
from official.modeling import optimization

from mnv2_hpu.compat import keras
from mnv2_hpu.configs import image_classification
from mnv2_hpu.configs.recipe import Recipe

# 1,281,167 images, 96 a rank, 420 epochs. A rank decays by 0.98 every 2.5 epochs from
# 0.045; several multiply that, along a line from 0 over the first 5 epochs:
#   ranks: (global batch, train steps, steps between decays, {step: rate})
TABLE = {
  1: (96, 5_605_105, 33_363, {0: 0.045, 33_362: 0.045, 33_363: 0.0441}),
  2: (192, 2_802_552, 16_681, {0: 0.0, 16_681: 0.044998, 33_364: 0.086436}),
  8: (768, 700_638, 4_170, {0: 0.0, 4_170: 0.17998, 8_341: 0.345744}),
  64: (6144, 87_579, 521, {0: 0.0, 521: 1.4391, 1_043: 2.765952}),
}
# After 168 decays: 0.045 * ranks * 0.98 ** 168.
LAST_RATE = {1: 0.0015108, 2: 0.0030215, 8: 0.012086, 64: 0.096688}


@pytest.mark.parametrize("ranks", TABLE)
def test_epochs_and_rates_follow_the_number_of_ranks(monkeypatch, ranks):
  monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", str(ranks))
  monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
  recipe = Recipe(data_dir="/data", num_classes=1001, num_train_examples=1_281_167)
  params = image_classification.experiment(recipe)
  batch, train_steps, decay_steps, rates = TABLE[ranks]
  assert params.task.train_data.global_batch_size == batch
  assert params.trainer.train_steps == train_steps
  assert train_steps * batch / 1_281_167 == pytest.approx(420, abs=0.005)

  config = params.trainer.optimizer_config
  assert config.learning_rate.get().decay_steps == decay_steps
  factory = optimization.OptimizerFactory(config.replace(ema=None))
  rate = factory.build_learning_rate()
  assert isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
  for step, expected in {**rates, train_steps - 1: LAST_RATE[ranks]}.items():
    assert float(rate(step)) == pytest.approx(expected, rel=5e-5)
