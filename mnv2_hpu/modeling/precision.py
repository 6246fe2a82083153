"""The dtype in which layers compute that are built while a policy holds."""

import contextlib
from collections.abc import Iterator

from mnv2_hpu.compat import keras


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
  """Layers built inside compute in float32, or in float64 by the global policy."""
  policy = keras.mixed_precision.global_policy()
  if policy.compute_dtype != "float64":
    keras.mixed_precision.set_global_policy("float32")
  try:
    yield
  finally:
    keras.mixed_precision.set_global_policy(policy)
