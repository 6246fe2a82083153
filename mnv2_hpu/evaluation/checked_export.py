"""Exports a run and checks that the export is what the run evaluated."""

import os
from collections.abc import Sequence

from mnv2_hpu.configs import image_classification as exp_cfg
from mnv2_hpu.core import run_record
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo
from mnv2_hpu.evaluation import metrics
from mnv2_hpu.serving import export, verify


def export_run(
  model_dir: str,
  export_dir: str,
  *,
  checkpoint: str | None = None,
  weights: str = "ema",
  formats: Sequence[str] | None = None,
  check: bool = True,
  validation_files: str | None = None,
) -> str:
  """Exports a training run and checks it on held-out images.

  Args:
    model_dir: Folder of the training run.
    export_dir: Folder to write to.
    checkpoint: Checkpoint of the run; its newest if None.
    weights: `"ema"` or `"raw"`.
    formats: Names in `serving.export.FORMATS`; all if None.
    check: Whether to check the export on the validation files.
    validation_files: Pattern of TFRecords for the check; the run's own if None.

  Returns:
    Lines on what was written and checked.

  Raises:
    UserError: If the run cannot be exported, or the export is not what was evaluated.
  """
  params = run_record.load(model_dir, exp_cfg.ImageClassificationTask())
  input_path = params.task.validation_data.input_path
  dataset = DatasetInfo.find(os.path.dirname(input_path))
  result = export.export(
    params,
    checkpoint or model_dir,
    export_dir,
    weights=weights,
    formats=list(export.FORMATS) if formats is None else formats,
    label_names=dataset.label_names if dataset else None,
    significant_bits=dataset.significant_bits if dataset else 16,
  )
  if not check:
    return result.summary()
  print(result.summary(), "checking it in a fresh process …", sep="\n", flush=True)
  expected = metrics.logged_accuracies(
    model_dir, params, result.restored.global_step, weights
  )
  checked = verify.check_export(export_dir, validation_files or input_path, expected)
  return checked.summary(expected)
