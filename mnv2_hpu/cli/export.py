"""Exports a trained model as SavedModel and TFLite, and checks both on held-out images.

Example, the run of `make quickstart`:

  mnv2-export --model_dir=build/quickstart/model --export_dir=build/export

What is exported is what was evaluated: the averaged weights, with the preprocessing of
the run inside. Both are then reloaded in a fresh process and run over the validation
files; the command fails where their accuracy is not that of the run's own evaluation.
"""

import os
from collections.abc import Sequence

from mnv2_hpu.cli import process

process.set_up()

from absl import flags  # noqa: E402
from official.core import config_definitions as cfg  # noqa: E402

import mnv2_hpu  # noqa: E402
from mnv2_hpu.checkpoints import restore  # noqa: E402
from mnv2_hpu.cli import main as cli_main  # noqa: E402
from mnv2_hpu.configs import image_classification as exp_cfg  # noqa: E402
from mnv2_hpu.core import run_record  # noqa: E402
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo  # noqa: E402
from mnv2_hpu.errors import UserError  # noqa: E402
from mnv2_hpu.reporting import curves  # noqa: E402
from mnv2_hpu.serving import export, verify  # noqa: E402

# Accuracy of `serving.verify`, and the tag under which training logs it.
LOGGED = {"top1": "accuracy", "top5": "top_5_accuracy"}


def define_flags() -> None:
  """Defines the flags."""
  flags.DEFINE_string("model_dir", None, "Folder of the training run.", required=True)
  flags.DEFINE_string("export_dir", None, "Folder to write to.", required=True)
  flags.DEFINE_string(
    "checkpoint", None, "A checkpoint of the run; its newest if not given."
  )
  flags.DEFINE_enum(
    "weights", "ema", restore.WEIGHTS, "The averaged weights, or the raw ones."
  )
  flags.DEFINE_list("formats", list(export.FORMATS), "What to write.")
  flags.DEFINE_bool("check", True, "Check the export on the validation files.")
  flags.DEFINE_string(
    "validation_files", None, "Pattern of TFRecords for the check; the run's own."
  )


def logged_accuracies(
  model_dir: str, params: cfg.ExperimentConfig, step: int | None, weights: str
) -> dict[str, float]:
  """Returns the accuracies that the run logged at a step, by name in `LOGGED`.

  Those of the raw weights are logged apart where the run keeps averages. Empty where
  nothing comparable was logged: at other steps, of other weights, of a part of the
  images.
  """
  folder = os.path.join(model_dir, curves.VALIDATION_SUBDIR)
  if not os.path.isdir(folder) or params.trainer.validation_steps != -1:
    return {}
  has_averages = params.trainer.optimizer_config.ema is not None
  prefix = "raw_" if weights == "raw" and has_averages else ""
  logged = curves.read_scalars(folder)
  values = {name: dict(logged.get(prefix + tag, [])) for name, tag in LOGGED.items()}
  return {name: by_step[step] for name, by_step in values.items() if step in by_step}


def _check(result: export.ExportResult, params: cfg.ExperimentConfig) -> str:
  """Checks an export; returns lines for the user."""
  values, step = flags.FLAGS, result.restored.global_step
  expected = logged_accuracies(values.model_dir, params, step, result.restored.weights)
  checked = verify.check_export(
    result.export_dir,
    values.validation_files or params.task.validation_data.input_path,
    expected,
  )
  right = [f"{name} {count}" for name, count in checked.top1.items()]
  if "top1" in expected:
    right.append(f"the run's evaluation {expected['top1'] * checked.num_examples:.0f}")
  else:
    right.append(f"the run logged no evaluation of these weights at step {step}")
  return (
    f"checked in a fresh process: right of {checked.num_examples} images: "
    f"{', '.join(right)}; largest difference of a probability "
    f"{checked.max_difference:.1e}"
  )


def main(argv: Sequence[str]) -> int:
  """Exports and checks."""
  del argv
  values = flags.FLAGS
  params = run_record.load(values.model_dir, exp_cfg.ImageClassificationTask())
  data_dir = os.path.dirname(params.task.validation_data.input_path)
  dataset = DatasetInfo.find(data_dir)
  if not values.formats:
    raise UserError(f"--formats is empty; allowed are {', '.join(export.FORMATS)}.")
  result = export.export(
    params,
    values.checkpoint or values.model_dir,
    values.export_dir,
    weights=values.weights,
    formats=values.formats,
    label_names=dataset.label_names if dataset else None,
  )
  print(
    f"exported the {result.restored.weights} weights of {result.restored.path} "
    f"(step {result.restored.global_step}): {', '.join(result.files.values())}",
    flush=True,
  )
  if values.check:
    print(_check(result, params))
  return 0


def entry_point() -> None:
  """The console script `mnv2-export`."""
  mnv2_hpu.register()
  define_flags()
  cli_main.run(main)


if __name__ == "__main__":
  entry_point()
