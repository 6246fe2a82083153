"""Values of variables at one moment, which a checkpoint is written from later.

A value is a reference to the variable's buffer: TensorFlow copies a buffer that is
referred to before it changes it. Those of an accelerator are copied to the host.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf

# Part of a variable in the names of a checkpoint, as `tf.train.Checkpoint` has it.
_VALUE = "VARIABLE_VALUE"


class _Value(tf.__internal__.tracking.Trackable):
  """Stands for a variable where a checkpoint is written."""

  _should_act_as_resource_variable = True  # the checkpoint then holds its name too

  def __init__(self, variable: tf.Variable) -> None:
    self._shared_name = variable._shared_name
    self._value = tf.identity(variable.read_value())

  def _serialize_to_tensors(self) -> dict[str, tf.Tensor]:
    return {_VALUE: self._value}


class VariableSnapshot:
  """What variables hold now.

  Args:
    variables: Variables of this process, or of one rank (`read_locally`).
  """

  def __init__(self, variables: Iterable[tf.Variable]) -> None:
    with tf.device("CPU:0"):
      self._values = {id(variable): _Value(variable) for variable in variables}

  def get(self, trackable: Any, default: Any) -> Any:
    """Returns what stands for a variable: TensorFlow's saver asks so."""
    return self._values.get(id(trackable), default)

  @contextlib.contextmanager
  def replacing_variables(self, checkpoint: tf.train.Checkpoint) -> Iterator[None]:
    """Inside, `checkpoint` is written with these values instead of its variables'."""
    # TensorFlow's own asynchronous checkpoint sets it, to copies of the variables.
    checkpoint._saver._object_map = self
    try:
      yield
    finally:
      checkpoint._saver._object_map = None
