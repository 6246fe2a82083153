"""Writes weights and what they expect as the folder of a run."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg

from mnv2_hpu import __version__, files
from mnv2_hpu.checkpoints.import_record import FILE as METADATA
from mnv2_hpu.checkpoints.import_record import GIN_FILE
from mnv2_hpu.compat import keras
from mnv2_hpu.core import run_record
from mnv2_hpu.errors import UserError

FLOAT32 = cfg.RuntimeConfig(
  distribution_strategy="one_device", mixed_precision_dtype="float32"
)


@dataclasses.dataclass(frozen=True)
class Required:
  """What weights must be of; None is anything."""

  width_multiplier: float | None = None
  num_classes: int | None = None

  def check(self, info: Any) -> None:
    """Refuses weights of another network.

    Args:
      info: Their description, with `path` and these fields.

    Raises:
      UserError: If a field differs.
    """
    for name, value in dataclasses.asdict(self).items():
      if value is not None and value != getattr(info, name):
        raise UserError(
          f"{info.path!r} is of a network with {name}={getattr(info, name)}, but "
          f"--{name}={value} is required."
        )


def write(
  output_dir: str,
  models: Mapping[str, keras.Model],
  global_step: int | None,
  metadata: Mapping[str, Any],
  gin: str,
  experiment: cfg.ExperimentConfig | None,
) -> str:
  """Writes a folder, whole or not at all.

  Args:
    output_dir: Absolute path of the folder; absent or empty.
    models: What a checkpoint of Model Garden's trainer holds, by name.
    global_step: Steps that the weights were trained, where known.
    metadata: Content of `import.json`, without the version of this package.
    gin: Content of the gin file that trains from the weights.
    experiment: Experiment that evaluates and exports them; None where there is none.

  Returns:
    Prefix of the checkpoint's files.
  """
  number = global_step or 0
  with files.atomic_folder(output_dir) as folder:
    step = tf.Variable(number, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(**models, global_step=step)
    manager = tf.train.CheckpointManager(checkpoint, folder, max_to_keep=None)
    name = os.path.basename(manager.save(checkpoint_number=number))
    with files.atomic_write(os.path.join(folder, METADATA)) as file:
      content = {**metadata, "tool_version": __version__}
      json.dump(content, file, indent=2, ensure_ascii=False)
      file.write("\n")
    with files.atomic_write(os.path.join(folder, GIN_FILE)) as file:
      file.write(gin)
    if experiment is not None:
      run_record.write(folder, experiment)
      run_record.restore_params_file(folder)  # from it a start takes the network
  return os.path.join(output_dir, name)
