"""The checkpoint that training starts from, checked before the network is built."""

import os

import tensorflow as tf

from mnv2_hpu.errors import UserError

KERAS_SUFFIXES = (".h5", ".hdf5", ".keras")


def check(path: str) -> None:
  """Checks that `task.init_checkpoint` is a checkpoint of this package's kind.

  Args:
    path: A checkpoint, without the endings of its files; or a folder of some, whose
      newest is read.

  Raises:
    UserError: If there is none, or it is of another kind.
  """
  checkpoint = tf.train.latest_checkpoint(path) if tf.io.gfile.isdir(path) else path
  if checkpoint is None:
    raise UserError(
      f"init_checkpoint is {path!r}: the folder holds no checkpoint. Give the "
      "model_dir of a training run, or one of its checkpoints, such as "
      f"{os.path.join(path, 'ckpt-1000')!r}."
    )
  if checkpoint.endswith(KERAS_SUFFIXES) and tf.io.gfile.exists(checkpoint):
    raise UserError(
      f"init_checkpoint is {path!r}: a file of Keras. It must be a checkpoint of "
      "TensorFlow: the model_dir of a training run, one of its checkpoints, or what "
      "mnv2-import-checkpoint has written."
    )
  if not tf.io.gfile.exists(f"{checkpoint}.index"):
    raise UserError(
      f"init_checkpoint is {path!r}: {checkpoint}.index does not exist. Give the "
      "model_dir of a training run, or one of its checkpoints, such as ckpt-1000."
    )
  try:
    reader = tf.train.load_checkpoint(checkpoint)
  except (tf.errors.OpError, ValueError) as error:
    raise UserError(
      f"init_checkpoint is {path!r}: it cannot be read ({error})."
    ) from error
  if not reader.has_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"):
    raise UserError(
      f"init_checkpoint is {path!r}: a checkpoint of TensorFlow 1. Convert it first: "
      f"mnv2-import-checkpoint --checkpoint={checkpoint} --output_dir=DIR"
    )
