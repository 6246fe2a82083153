"""What smaller records (`--max_side`) do to accuracy, where detail tells the classes.

  .venv/bin/python benchmarks/max_side_accuracy.py --seeds=2

Crops of three photos, whose ten regions are the classes (`photo_crops`), 64 px a side,
for a network of 40 px with slim's crops: as much larger than the network's input as
ImageNet's median photo, 500 x 375 px, is than 224. Both splits are prepared at each
side, and `gin/image_folder.gin` trains and evaluates on them with each seed. Prints a
row as soon as it is known.
"""

import statistics
from pathlib import Path

from mnv2_hpu import tf_environment

tf_environment.configure()

import gin
import photo_crops
import recipes_on_digits
from absl import app, flags

import mnv2_hpu
from mnv2_hpu.configs import gin_files, image_classification
from mnv2_hpu.configs.recipe import configured_recipe
from mnv2_hpu.data_preparation import prepare
from mnv2_hpu.progress import Progress

_FOLDER = flags.DEFINE_string("folder", "build/max_side_accuracy", "Crops, records.")
_EPOCHS = flags.DEFINE_float("epochs", 20, "Of each run.")

NUM_TRAIN, NUM_VALIDATION = 2000, 500
SIDE, IMAGE_SIZE = 64, 40  # pixels of a crop, of the network's input
# ImageNet's --max_side of the same ratio to the input -> ours; 0 keeps all pixels.
MAX_SIDES = {"none": 0, "384": 51, "320": 43, "256": 34}


def _records(max_side):
  """Prepares both splits; returns the folder."""
  crops = Path(_FOLDER.value, "crops")
  if not crops.exists():
    photo_crops.write_crops(crops, NUM_TRAIN, NUM_VALIDATION, SIDE)
  output_dir = f"{_FOLDER.value}/records-{max_side}"
  prepare.prepare(prepare.PreparationOptions(str(crops), output_dir, max_side=max_side))
  return output_dir


def _experiment(records, seed):
  recipe = "mobilenet_v2_classification"
  bindings = {
    "image_size": IMAGE_SIZE,
    "width_multiplier": 0.35,
    "batch_size": 64,
    "train_epochs": _EPOCHS.value,
    "cache": True,
    "seed": seed,
  }
  gin.clear_config(clear_constants=True)
  gin.parse_config_files_and_bindings(
    [gin_files.path("image_folder.gin")],
    [f"DATA_DIR = '{records}'", *(f"{recipe}.{k} = {v}" for k, v in bindings.items())],
  )
  return image_classification.experiment(configured_recipe())


def main(argv):
  """Trains at every side with every seed; prints the table."""
  del argv
  mnv2_hpu.register()
  seeds = flags.FLAGS.seeds
  print("| for 224 px | here | top-1: mean (least to most) |\n|---|---|---|")
  with Progress(len(MAX_SIDES) * seeds, "run") as progress:
    for row, (of_imagenet, max_side) in enumerate(MAX_SIDES.items()):
      records = _records(max_side)
      found = []
      for seed in range(seeds):
        curve = recipes_on_digits.train(
          _experiment(records, seed), seed, Progress(1, "evaluation"), 0
        )
        found.append(curve[-1][2])
        progress.update_to(row * seeds + seed + 1)
      spread = f"{statistics.mean(found):.1%} ({min(found):.1%} to {max(found):.1%})"
      print(f"| {of_imagenet} | {max_side or SIDE} | {spread} |", flush=True)


if __name__ == "__main__":
  flags.FLAGS.set_default("evaluations", 1)
  app.run(main)
