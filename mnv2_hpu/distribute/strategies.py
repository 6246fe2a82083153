"""The one hook into Model Garden: names of distribution strategies it lacks."""

import functools
import math
import os
from collections.abc import Callable
from typing import Any

import gin
import tensorflow as tf
from official.common import distribute_utils
from tensorflow.python.eager import context

from mnv2_hpu import cluster, driver_flags
from mnv2_hpu.core import config_check
from mnv2_hpu.core.termination import FaultSettings
from mnv2_hpu.distribute import habana, horovod, worker_dirs
from mnv2_hpu.errors import UserError, did_you_mean

UPSTREAM_NAMES = (
  "off",
  "one_device",
  "mirrored",
  "multi_worker_mirrored",
  "parameter_server",
  "tpu",
)

# name -> builder of the strategy
STRATEGIES: dict[str, Callable[[], tf.distribute.Strategy]] = {
  "hpu": habana.strategy,
  "horovod": horovod.strategy,
}
# These find the other ranks in TF_CONFIG.
NEED_TF_CONFIG = ("hpu", "multi_worker_mirrored")
# These do not look for other ranks: each would train for itself.
ONE_PROCESS = ("off", "one_device", "mirrored", "tpu")

# Added to what the watchdog waits for a silent rank, whose name it alone knows.
_TRANSPORT_MARGIN_SECONDS = 60

_upstream = distribute_utils.get_distribution_strategy


@gin.configurable("cluster", module="mnv2_hpu")
def _set_tf_config(hosts: str = "", port: int = cluster.DEFAULT_PORT) -> None:
  """Sets TF_CONFIG where several ranks run; see `cluster.tf_config`.

  Args:
    hosts: Machines of the ranks; bound as `mnv2_hpu.cluster.hosts`.
    port: Port of rank 0; bound as `mnv2_hpu.cluster.port`.
  """
  if cluster.world_size(os.environ) > 1:
    os.environ[cluster.TF_CONFIG] = cluster.tf_config(os.environ, hosts, port)


def _raise_transport_timeouts() -> None:
  """Makes the layers below wait for a silent rank longer than the watchdog does.

  gloo gives up after 30 seconds by default, TensorFlow's coordination service after 10.
  """
  seconds = math.ceil(FaultSettings().missing_rank_seconds) + _TRANSPORT_MARGIN_SECONDS
  set_by_user = int(os.environ.get("HOROVOD_GLOO_TIMEOUT_SECONDS") or 0)
  os.environ["HOROVOD_GLOO_TIMEOUT_SECONDS"] = str(max(seconds, set_by_user))
  # TensorFlow's strategies call this, without a timeout, and there is no other setting.
  # A worker gives up the service after half of it.
  eager = context.context()
  eager.configure_coordination_service = functools.partial(
    eager.configure_coordination_service, heartbeat_timeout_in_ms=2 * 1000 * seconds
  )


def _check_gpus(name: str, num_gpus: int) -> None:
  """Checks that TensorFlow sees the GPUs that the run requests.

  Raises:
    UserError: If it sees fewer.
  """
  if num_gpus <= 0:
    return
  found = len(tf.config.list_physical_devices("GPU"))
  if num_gpus > found:
    raise UserError(
      f"runtime.num_gpus is {num_gpus} (runtime.distribution_strategy {name!r}), but "
      f"TensorFlow {tf.__version__} sees {found} GPU(s). Set runtime.num_gpus to "
      f"{found} at most (0 is the CPU), or see nvidia-smi, CUDA_VISIBLE_DEVICES and "
      "whether this TensorFlow was built with CUDA."
    )


def _check_ranks(name: str) -> None:
  """Refuses several independent trainings in one folder.

  Raises:
    UserError: If several ranks run, and strategy or trainer do not join them.
  """
  size = cluster.world_size(os.environ)
  driver_flags.check_mode(size)
  if name in ONE_PROCESS and size > 1:
    joining = [*STRATEGIES, "multi_worker_mirrored"]
    raise UserError(
      f"{cluster.launcher(os.environ)} started {size} processes, but "
      f"runtime.distribution_strategy {name!r} does not join them: they would be "
      f"{size} trainings that overwrite each other. Use {' or '.join(joining)}, or "
      "start one process."
    )
  in_driver = driver_flags.driver_mode() is not None
  if in_driver and name in STRATEGIES and size > 1 and not worker_dirs.joins_ranks():
    raise UserError(
      f"runtime.distribution_strategy {name!r} on {size} processes needs a trainer "
      "that gives all of them rank 0's variables, after a restore too. Model Garden's "
      "own does not: add --gin_params='create_trainer.trainer_cls = @mnv2_hpu.Trainer'."
    )


def get_distribution_strategy(
  distribution_strategy: str = "mirrored", **kwargs: Any
) -> tf.distribute.Strategy:
  """Returns the strategy of a name; Model Garden's own names go to Model Garden.

  Args:
    distribution_strategy: Value of `runtime.distribution_strategy`, in any case of
      letters: a key of `STRATEGIES` or one of `UPSTREAM_NAMES`.
    **kwargs: Passed on to Model Garden (`num_gpus`, `all_reduce_alg`, …).

  Raises:
    UserError: If the name is unknown, or the strategy cannot run here.
  """
  driver_flags.alias_modes()
  config_check.check_driver()
  if isinstance(distribution_strategy, str):
    name = distribution_strategy.lower()
    if name not in (*STRATEGIES, *UPSTREAM_NAMES):
      raise UserError(
        f"runtime.distribution_strategy: {distribution_strategy!r} is unknown. "
        f"{did_you_mean(name, (*STRATEGIES, *UPSTREAM_NAMES))}"
      )
    _check_ranks(name)
    _check_gpus(name, kwargs.get("num_gpus") or 0)
    if name in NEED_TF_CONFIG:
      _set_tf_config()
    if cluster.world_size(os.environ) > 1:
      _raise_transport_timeouts()
    if name in STRATEGIES:
      return STRATEGIES[name]()
  try:
    return _upstream(distribution_strategy=distribution_strategy, **kwargs)
  except (ValueError, tf.errors.OpError) as error:
    if str(distribution_strategy).lower() != "tpu":
      raise
    raise UserError(
      "runtime.distribution_strategy is 'tpu', but no TPU can be used here "
      f"({type(error).__name__}: {error}). Set runtime.tpu, or use another strategy: "
      "one_device or mirrored."
    ) from error


def install_hook() -> None:
  """Makes every Model Garden driver look strategies up here. Idempotent."""
  distribute_utils.get_distribution_strategy = get_distribution_strategy
