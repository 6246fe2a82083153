"""The environment variables that TensorFlow reads when it is first imported.

Imports no TensorFlow.
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

# As the user set it. What this process starts in turn gets this one: its threads follow
# from the cores that it may use itself.
USER_ENVIRON: Mapping[str, str] = dict(os.environ)


def with_defaults(environ: Mapping[str, str]) -> dict[str, str]:
  """Returns `environ` with this project's defaults, where the user set nothing.

  >>> with_defaults({"TF_ENABLE_ONEDNN_OPTS": "0"})["TF_ENABLE_ONEDNN_OPTS"]
  '0'
  """
  # In a container TensorFlow counts the cores of the host, not those it may use.
  cores = str(len(os.sched_getaffinity(0)))
  threads = {"TF_NUM_INTRAOP_THREADS": cores, "TF_NUM_INTEROP_THREADS": cores}
  return {**DEFAULTS, **threads, **environ}


def configure() -> None:
  """Applies `with_defaults` to this process; call before importing TensorFlow."""
  os.environ.update(with_defaults(os.environ))
  warnings.filterwarnings("ignore", _ANNOUNCEMENT, FutureWarning)
