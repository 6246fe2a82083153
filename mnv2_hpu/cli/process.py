"""The process before TensorFlow starts: oneDNN, threads, native logs.

Imports no TensorFlow; its settings are read when TensorFlow is first imported.
"""

import os
import warnings
from collections.abc import Mapping

# google-api-core, which Model Garden imports, says so of every Python 3.10.
_ANNOUNCEMENT = "You are using a non-supported Python version"

# TensorFlow 2.15 turns oneDNN on by itself only on the newest CPUs; on others it
# doubles the speed of this network's training step (docs/benchmarks.md).
DEFAULTS = {
  "TF_ENABLE_ONEDNN_OPTS": "1",
  "TF_CPP_MIN_LOG_LEVEL": "2",
  "PYTHONWARNINGS": f"ignore:{_ANNOUNCEMENT}:FutureWarning",
}


def environment(environ: Mapping[str, str]) -> dict[str, str]:
  """Returns `environ` with this project's defaults, where the user set nothing.

  >>> environment({"TF_ENABLE_ONEDNN_OPTS": "0"})["TF_ENABLE_ONEDNN_OPTS"]
  '0'
  """
  # In a container TensorFlow counts the cores of the host, not those it may use.
  cores = str(len(os.sched_getaffinity(0)))
  threads = {"TF_NUM_INTRAOP_THREADS": cores, "TF_NUM_INTEROP_THREADS": cores}
  return {**DEFAULTS, **threads, **environ}


def set_up() -> None:
  """Applies `environment` to this process; call before importing TensorFlow."""
  os.environ.update(environment(os.environ))
  warnings.filterwarnings("ignore", _ANNOUNCEMENT, FutureWarning)
