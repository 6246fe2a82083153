r"""Writes metrics.json and report.html of a training run and its export.

Example, the run of `make quickstart`:

  mnv2-report --model_dir=build/quickstart/model \
    --export_dir=build/quickstart/export --output_dir=build/report

The report shows learning curves, the confusion matrix and held-out images with their
predictions; it opens without a network.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

import mnv2_hpu
from mnv2_hpu.cli import command
from mnv2_hpu.cli.path_flags import define_path
from mnv2_hpu.dataloaders import image_decoding, record_files
from mnv2_hpu.errors import UserError
from mnv2_hpu.reporting import curves, plots, report
from mnv2_hpu.serving import export, verify

NUM_SAMPLES = 50
# Metric of metrics.json -> tag under which training logs it.
LOGGED = {
  "top1": "accuracy",
  "top5": "top_5_accuracy",
  "loss": "validation_loss",
  "top1_raw": "raw_accuracy",
}


def define_flags() -> None:
  """Defines the flags."""
  define_path("model_dir", None, "Folder of the run.", required=True)
  define_path("export_dir", None, "Folder of its export, checked.", required=True)
  define_path("output_dir", None, "Folder to write.", required=True, written=True)
  define_path(
    "figure_path", None, "PNG file of curves and predictions to write besides."
  )


def _read_json(folder: str, name: str) -> dict[str, Any]:
  path = Path(folder) / name
  if not path.exists():
    raise UserError(
      f"{folder!r} holds no {name}: give the folder of a whole export, made and "
      "checked by entrypoints/export.py, as --export_dir."
    )
  return json.loads(path.read_text())


def metrics(
  logged: curves.Curves, exported: Mapping[str, Any], checked: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns the content of metrics.json.

  Args:
    logged: what the run logged; the last evaluation counts.
    exported: `export.json`.
    checked: `check.json`: what the reloaded export got right.
  """
  values = {
    name: logged.validation[tag][-1][1]
    for name, tag in LOGGED.items()
    if logged.validation.get(tag)
  }
  reloaded = {
    f"top1_{name}": right / checked["num_examples"]
    for name, right in checked["top1"].items()
  }
  return {
    **values,
    **reloaded,
    "num_examples": checked["num_examples"],
    "train_steps": exported["global_step"],
    "weights": exported["weights"],
    "versions": exported["versions"],
  }


def _samples(
  fields: Mapping[str, str], probabilities: np.ndarray, count: int
) -> list[plots.Sample]:
  """Held-out images: those predicted wrongly first, then others, evenly spread."""
  files = record_files.match_files(fields["input_path"])
  encoded: list[bytes] = []
  labels: list[int] = []
  for images, batch_labels in verify.read_examples(files, fields):
    encoded += list(images.numpy())
    labels += list(batch_labels)
  predictions = probabilities.argmax(-1)
  wrong = np.flatnonzero(predictions != np.array(labels))[:count]
  right = np.setdiff1d(np.arange(len(labels)), wrong)
  spread = np.linspace(0, len(right) - 1, num=min(count - len(wrong), len(right)))
  chosen = [*wrong, *right[spread.astype(int)]]
  return [
    plots.Sample(
      image=image_decoding.decode_image(encoded[i]).numpy(),
      label=int(labels[i]),
      prediction=int(predictions[i]),
      probability=float(probabilities[i].max()),
    )
    for i in chosen
  ]


def _summary(values: Mapping[str, Any], model_dir: str) -> dict[str, str]:
  with open(os.path.join(model_dir, "run_record.json"), encoding="utf-8") as file:
    config = json.load(file)["config"]
  backbone = config["task"]["model"]["backbone"]["mobilenet_v2"]
  size = config["task"]["model"]["input_size"]
  return {
    "Network": f"MobileNetV2 {backbone['width_multiplier']}, {size[0]} x {size[1]}",
    "Compute dtype": config["runtime"]["mixed_precision_dtype"],
    "Global batch": str(config["task"]["train_data"]["global_batch_size"]),
    "Training steps": f"{values['train_steps']:,}",
    "Held-out images": f"{values['num_examples']:,}",
    "Top-1, EMA weights": f"{values['top1']:.2%}",
    "Top-1, raw weights": f"{values['top1_raw']:.2%}" if "top1_raw" in values else "-",
    **{
      f"Top-1, {name.removeprefix('top1_')} reloaded": f"{values[name]:.2%}"
      for name in ("top1_saved_model", "top1_tflite")
      if name in values
    },
  }


def main(argv: Sequence[str]) -> None:
  """Writes both files."""
  del argv
  mnv2_hpu.register()
  flag = flags.FLAGS
  exported = _read_json(flag.export_dir, export.METADATA)
  checked = _read_json(flag.export_dir, verify.RESULT)
  logged = curves.read(flag.model_dir)
  values = metrics(logged, exported, checked)
  with np.load(os.path.join(flag.export_dir, verify.PREDICTIONS)) as stored:
    labels = stored["labels"]
    probabilities = stored[next(iter(checked["top1"]))]
  num_classes = exported["num_classes"]
  names = exported["label_names"] or [str(label) for label in range(num_classes)]
  samples = _samples(exported["data"], probabilities, NUM_SAMPLES)

  output_dir = Path(flag.output_dir)
  output_dir.mkdir(parents=True, exist_ok=True)
  aside = output_dir / "metrics.json.partial"
  aside.write_text(json.dumps(values, indent=2) + "\n")
  os.replace(aside, output_dir / "metrics.json")
  report.write_report(
    output_dir / "report.html",
    title="MobileNetV2: report of a training run",
    highlights={
      "top-1, EMA weights": f"{values['top1']:.2%}",
      "top-5, EMA weights": f"{values['top5']:.2%}",
      "held-out images": f"{values['num_examples']:,}",
      "training steps": f"{values['train_steps']:,}",
    },
    summary=_summary(values, flag.model_dir),
    curves=logged,
    confusion=report.confusion_matrix(labels, probabilities.argmax(-1), num_classes),
    class_names=names,
    samples=samples,
    footer=", ".join(f"{k} {v}" for k, v in exported["versions"].items()),
  )
  if flag.figure_path:
    plots.save_overview_png(
      flag.figure_path, curves=logged, samples=samples[:36], class_names=names
    )
  print(f"wrote {output_dir / 'metrics.json'} and {output_dir / 'report.html'}")


def entry_point() -> None:
  """The console script `mnv2-report`."""
  command.run(main, define_flags)


if __name__ == "__main__":
  entry_point()
