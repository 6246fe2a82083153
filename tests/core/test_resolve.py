"""What `--dry_run` prints."""

from mnv2_hpu.core import resolve
from mnv2_hpu.core.resolve import Value


def test_each_value_is_shown_with_its_source_and_none_before_it_is_known():
  resolved = resolve.Resolved(
    experiment="mobilenet_v2_classification",
    arguments={
      "num_classes": Value(0, "default"),  # read from dataset.json later
      "batch_size": Value(8, "--gin_params"),
    },
    fields={
      "task.model.num_classes": Value(3, ""),
      "trainer.train_steps": Value(5, "--params_override"),
    },
    params=None,
  )

  assert resolve.describe(resolved).splitlines() == [
    "experiment mobilenet_v2_classification",
    "",
    "bound arguments of the recipe",
    "  batch_size  8  [--gin_params]",
    "",
    "resolved configuration, by the experiment where no flag is named",
    "  task.model.num_classes  3",
    "  trainer.train_steps     5  [--params_override]",
  ]
