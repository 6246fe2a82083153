"""Imports TensorFlow in a process of its own, beside which the other checks are made.

A TensorFlow that aborts or that kills its process is then a line of the report. Run as
`python -m mnv2_hpu.doctor.tensorflow_probe`, it prints what it found as JSON.
"""

import gc
import json
import signal
import subprocess
import sys
from typing import Any

from mnv2_hpu import compat

# TensorFlow's import goes on without these, which cost a quarter of its time (2.15) or
# half (2.20). Keras is judged by its version; the last one finds Google's TPUs.
_SKIPPED = (*compat.KERAS_MODULES, "googleapiclient")


def start() -> subprocess.Popen[str]:
  """Starts the import; `result` waits for its end."""
  return subprocess.Popen(
    [sys.executable, "-m", __name__],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def result(process: subprocess.Popen[str]) -> tuple[dict[str, Any] | None, str]:
  """Returns what the process found, or None and why it found nothing.

  Args:
    process: Process from `start`.
  """
  out, err = process.communicate()
  if process.returncode == 0:
    return json.loads(out.splitlines()[-1]), ""
  if process.returncode < 0:
    return None, f"it ends its process with {signal.Signals(-process.returncode).name}"
  return None, (err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]


def main() -> None:
  """Prints version, build, device types, and what the input is computed by."""
  sys.modules.update(dict.fromkeys(_SKIPPED))  # type: ignore[arg-type]
  gc.disable()  # an import makes a million objects and frees none
  import tensorflow as tf

  from mnv2_hpu.native import library

  found = {
    "version": tf.__version__,
    "cuda_build": tf.test.is_built_with_cuda(),
    "devices": [d.device_type for d in tf.config.list_physical_devices()],
    "has_native_input": library.load() is not None,
  }
  print(json.dumps(found))


if __name__ == "__main__":
  main()
