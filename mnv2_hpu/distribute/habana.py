"""Gaudi (HPU): the only module that names `habana_frameworks`.

`python -m mnv2_hpu.distribute.habana` prints as JSON whether a device can be used here.
"""

import importlib
import json
import os
from typing import Any

import tensorflow as tf
from absl import logging
from tensorflow.python.eager import context

from mnv2_hpu import cluster, compat, driver_flags
from mnv2_hpu.distribute import hpu_environment
from mnv2_hpu.errors import UserError

DEVICE_TYPE = "HPU"

_INSTEAD = (
  "Without a device use runtime.distribution_strategy: one_device (CPU, or one GPU) or "
  "mirrored (several GPUs)."
)


def _check_versions() -> None:
  name, wanted = hpu_environment.BRIDGE
  installed = compat.version(name)
  if installed is None:
    raise UserError(
      f"runtime.distribution_strategy 'hpu' needs {name} {wanted}, which is not "
      f"installed beside this TensorFlow {tf.__version__}: Gaudi needs the stack of "
      "TensorFlow 2.15 on Python 3.10 (`make setup STACK=2.15`, or pip install "
      f"'mnv2-hpu[gaudi]'). {hpu_environment.FITS} {_INSTEAD}"
    )
  if installed != wanted:
    raise UserError(
      f"{name} is {installed}. {hpu_environment.FITS} Install the locked requirements. "
      f"{_INSTEAD}"
    )
  if tf.__version__ != hpu_environment.TENSORFLOW:
    raise UserError(
      f"{name} {installed} fits TensorFlow {hpu_environment.TENSORFLOW} only; this is "
      f"TensorFlow {tf.__version__}. Install the locked requirements. {_INSTEAD}"
    )
  if tf.test.is_built_with_cuda():
    raise UserError(
      f"this is the CUDA build of TensorFlow, in which {name} aborts the process. "
      f"{hpu_environment.FITS} {_INSTEAD}"
    )


def _check_devices_not_started() -> None:
  # The first operation starts them. Loaded after it, the bridge aborts the process
  # ("Attempt to register an AllocatorFactory after call to GetAllocator()").
  started = context.context_safe()
  if started is not None and started._initialized:
    raise UserError(
      "runtime.distribution_strategy is 'hpu', but TensorFlow has started its devices "
      "already: an operation ran before the strategy was made. Make it first, and "
      "run no TensorFlow operation in modules that a gin file imports."
    )


def load(settings: hpu_environment.Settings | None = None) -> None:
  """Loads Habana's TensorFlow bridge, so that it appears as device `HPU:0`.

  Sets the environment, then loads, once in a process. Call it before any TensorFlow
  operation has run.

  Args:
    settings: Settings of this run; by default what gin has bound to `mnv2_hpu.hpu`.

  Raises:
    UserError: If the bridge is missing, does not fit TensorFlow or the driver, cannot
      compute in the precision requested, or finds no device.
  """
  settings = settings or hpu_environment.configured()
  _check_versions()
  policy = compat.keras.mixed_precision.global_policy()
  hpu_environment.check_precision(settings, policy.compute_dtype, os.environ)
  bridge = importlib.import_module("habana_frameworks.tensorflow")
  if not bridge.habana_ops.is_initialized:
    _check_devices_not_started()
    if settings.check_driver:
      hpu_environment.check_driver(hpu_environment.driver_version())
    os.environ.update(hpu_environment.variables(settings, os.environ))
    _load(bridge)
  if not tf.config.list_physical_devices(DEVICE_TYPE):
    raise UserError(
      "runtime.distribution_strategy is 'hpu': Habana's bridge was loaded, but "
      "TensorFlow lists no HPU device. Another process may hold it (one process "
      f"acquires one Gaudi): see `hl-smi`. {_INSTEAD}"
    )


def _load(bridge: Any) -> None:
  try:
    bridge.load_habana_module()
  # Without a driver the bridge (1.14) fails on the device type it could not read.
  except (AttributeError, OSError, RuntimeError, tf.errors.OpError) as error:
    raise UserError(
      "runtime.distribution_strategy is 'hpu', but Habana's bridge found no Gaudi "
      f"device here ({type(error).__name__}: {error}). Check the driver with `hl-smi`. "
      f"{hpu_environment.FITS} {_INSTEAD}"
    ) from error


def strategy() -> tf.distribute.Strategy:
  """Returns the strategy of this process's device, alone or with those of other ranks.

  Several ranks are those that TF_CONFIG names (see `cluster.tf_config`).
  What is decided here, and why, is the table in docs/hpu.md.

  Raises:
    UserError: If no device can be used here (see `load`).
  """
  settings = hpu_environment.configured()
  load(settings)
  # The stock driver reads this flag after it has requested its strategy.
  driver_flags.override("enable_async_checkpointing", False)
  tf.config.set_soft_device_placement(True)
  if settings.op_placement_report:
    tf.debugging.set_log_device_placement(True)
  if cluster.world_size(os.environ) == 1:
    return tf.distribute.OneDeviceStrategy(f"device:{DEVICE_TYPE}:0")
  module = importlib.import_module("habana_frameworks.tensorflow.distribute")
  several = module.HPUStrategy()
  # Model Garden builds its preemption handler for every strategy that shows a resolver.
  several.extended._cluster_resolver = None
  logging.info("rank %d of %d", cluster.rank(os.environ), several.num_replicas_in_sync)
  return several


def probe() -> dict[str, bool | str]:
  """Returns `{"available": bool, "reason": str}`: whether a device can be used here."""
  try:
    load()
  except UserError as error:
    return {"available": False, "reason": str(error)}
  return {"available": True, "reason": ""}


if __name__ == "__main__":
  print(json.dumps(probe()))
