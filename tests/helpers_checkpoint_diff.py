"""Where two checkpoints differ, bit by bit."""

import numpy as np
import tensorflow as tf

# Counts saves, not steps: a run that was interrupted may have saved more often.
NOT_TRAINED = ("save_counter",)


def differences(first: str, second: str) -> list[str]:
  """Compares all tensors of two checkpoints: variables, slots, averages, the step.

  Args:
    first: Path of a checkpoint, or a folder whose newest one is meant.
    second: Path or folder of the other.

  Returns:
    A line for each tensor that differs in any bit or exists in one of them only, in
    the order of the names; nothing where both hold the same.
  """
  readers = [tf.train.load_checkpoint(path) for path in (first, second)]
  names = [set(reader.get_variable_to_shape_map()) for reader in readers]
  found = [f"{name}: in one of them only" for name in names[0] ^ names[1]]
  for name in names[0] & names[1]:
    if name.startswith(NOT_TRAINED) or name == "_CHECKPOINTABLE_OBJECT_GRAPH":
      continue
    values = [np.asarray(reader.get_tensor(name)) for reader in readers]
    if values[0].tobytes() != values[1].tobytes():
      apart = np.flatnonzero(values[0].ravel() != values[1].ravel())
      found.append(f"{name}: {len(apart)} of {values[0].size} values differ")
  return sorted(found)
