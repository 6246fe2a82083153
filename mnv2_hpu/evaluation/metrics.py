"""Metrics that a run has logged, and those of its export, under the same names."""

import os
from collections.abc import Mapping
from typing import Any

from official.core import config_definitions as cfg

from mnv2_hpu.reporting import curves
from mnv2_hpu.serving.check_result import Verification

# Metric of metrics.json -> tag under which training logs it.
TAGS = {
  "top1": "accuracy",
  "top5": "top_5_accuracy",
  "loss": "validation_loss",
  "top1_raw": "raw_accuracy",
}


def logged_accuracies(
  model_dir: str, params: cfg.ExperimentConfig, step: int | None, weights: str
) -> dict[str, float]:
  """Returns the accuracies `top1` and `top5` that the run logged at a step.

  Those of the raw weights have tags of their own where the run keeps EMA weights. Empty
  where nothing comparable was logged: at other steps, of other weights, of a part of
  the images.
  """
  folder = os.path.join(model_dir, curves.VALIDATION_SUBDIR)
  if params.trainer.validation_steps != -1 or not curves.has_events(folder):
    return {}
  has_ema = params.trainer.optimizer_config.ema is not None
  prefix = "raw_" if weights == "raw" and has_ema else ""
  logged = curves.read_scalars(folder)
  values = {
    name: dict(logged.get(prefix + TAGS[name], [])) for name in ("top1", "top5")
  }
  return {name: by_step[step] for name, by_step in values.items() if step in by_step}


def run_metrics(
  logged: curves.Curves, exported: Mapping[str, Any], checked: Verification
) -> dict[str, Any]:
  """Returns the content of metrics.json.

  Args:
    logged: Scalars that the run logged; the last evaluation counts.
    exported: Content of `export.json`.
    checked: What the reloaded export got right.
  """
  values = {
    name: logged.validation[tag][-1][1]
    for name, tag in TAGS.items()
    if logged.validation.get(tag)
  }
  if exported["num_classes"] <= 5:
    values.pop("top5", None)  # always 1
  reloaded = {
    f"top1_{name}": correct / checked.num_examples
    for name, correct in checked.top1.items()
  }
  return {
    **values,
    **reloaded,
    "num_examples": checked.num_examples,
    "train_steps": exported["global_step"],
    "weights": exported["weights"],
    "versions": exported["versions"],
  }
