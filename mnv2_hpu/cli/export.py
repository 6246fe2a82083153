"""Exports a trained model as SavedModel and TFLite, and checks both on held-out images.

Example, the run of `make quickstart`:

  mnv2-export --model_dir=build/quickstart/model --export_dir=build/export

What is exported is what was evaluated: the EMA weights, with the preprocessing of
the run inside. Both are then reloaded in a fresh process and run over the validation
files; the command fails where their accuracy is not that of the run's own evaluation.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

import mnv2_hpu
from mnv2_hpu.cli import command
from mnv2_hpu.cli.path_flags import define_path

if TYPE_CHECKING:
  from official.core import config_definitions as cfg


# Accuracy of `serving.verify`, and the tag under which training logs it.
LOGGED = {"top1": "accuracy", "top5": "top_5_accuracy"}


def define_flags() -> None:
  """Defines the flags."""
  define_path(
    "model_dir", None, "Folder of the training run.", required=True, remote=True
  )
  define_path("export_dir", None, "Folder to write to.", required=True, written=True)
  define_path(
    "checkpoint", None, "A checkpoint of the run; its newest if not given.", remote=True
  )
  flags.DEFINE_enum("weights", "ema", ["ema", "raw"], "EMA weights, or the raw ones.")
  flags.DEFINE_list("formats", None, "saved_model, tflite; both if not given.")
  flags.DEFINE_bool("check", True, "Check the export on the validation files.")
  define_path(
    "validation_files",
    None,
    "Pattern of TFRecords for the check; the run's own if not given.",
    remote=True,
  )


def logged_accuracies(
  model_dir: str, params: "cfg.ExperimentConfig", step: int | None, weights: str
) -> dict[str, float]:
  """Returns the accuracies that the run logged at a step, by name in `LOGGED`.

  Those of the raw weights are logged apart where the run keeps averages. Empty where
  nothing comparable was logged: at other steps, of other weights, of a part of the
  images.
  """
  from mnv2_hpu.reporting import curves

  folder = os.path.join(model_dir, curves.VALIDATION_SUBDIR)
  if not os.path.isdir(folder) or params.trainer.validation_steps != -1:
    return {}
  has_averages = params.trainer.optimizer_config.ema is not None
  prefix = "raw_" if weights == "raw" and has_averages else ""
  logged = curves.read_scalars(folder)
  values = {name: dict(logged.get(prefix + tag, [])) for name, tag in LOGGED.items()}
  return {name: by_step[step] for name, by_step in values.items() if step in by_step}


def main(argv: Sequence[str]) -> int:
  """Exports and checks."""
  del argv
  values = flags.FLAGS
  mnv2_hpu.register()
  from mnv2_hpu.configs import image_classification as exp_cfg
  from mnv2_hpu.core import run_record
  from mnv2_hpu.dataloaders.dataset_info import DatasetInfo
  from mnv2_hpu.serving import export, verify

  params = run_record.load(values.model_dir, exp_cfg.ImageClassificationTask())
  files = params.task.validation_data.input_path
  dataset = DatasetInfo.find(os.path.dirname(files))
  result = export.export(
    params,
    values.checkpoint or values.model_dir,
    values.export_dir,
    weights=values.weights,
    formats=list(export.FORMATS) if values.formats is None else values.formats,
    label_names=dataset.label_names if dataset else None,
    significant_bits=dataset.significant_bits if dataset else 16,
  )
  print(result.summary(), flush=True)
  if values.check:
    expected = logged_accuracies(
      values.model_dir, params, result.restored.global_step, values.weights
    )
    print("checking both in a fresh process …", flush=True)
    checked = verify.check_export(
      values.export_dir, values.validation_files or files, expected
    )
    print(checked.summary(expected))
  return 0


def entry_point() -> None:
  """The console script `mnv2-export`."""
  command.run(main, define_flags)


if __name__ == "__main__":
  entry_point()
