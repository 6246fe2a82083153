"""Where a checkpoint is, and what stands there if it is none that can be read."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf

from mnv2_hpu.errors import UserError, shorten

_SUFFIX = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_OTHER_FORMATS = {  # by the end of the name
  r"h5|hdf5": "Keras weights in HDF5",
  r"keras": "a Keras archive",
  r"tgz|tar|tar\.\w+|zip": "an archive, to be unpacked first",
  r"pb": "a TensorFlow graph",
  r"tflite": "a TFLite model",
  r"pt|pth|bin|safetensors": "a file of PyTorch's",
}


def find_checkpoint(checkpoint: str) -> str:
  """Returns the prefix of a checkpoint's files.

  Args:
    checkpoint: Such a prefix (`model_dir/ckpt-880`), one of the files, or a folder,
      which stands for the newest checkpoint in it.

  Raises:
    UserError: If there is none, or if it is something else, such as a `.h5` file; the
      message lists what is there.
  """
  if tf.io.gfile.isdir(checkpoint):
    return _newest(checkpoint)
  prefix = _SUFFIX.sub("", checkpoint)
  if tf.io.gfile.exists(f"{prefix}.index"):
    return prefix
  if tf.io.gfile.exists(checkpoint):
    for suffix, kind in _OTHER_FORMATS.items():
      if re.search(rf"\.({suffix})$", checkpoint, re.IGNORECASE):
        raise UserError(
          f"{checkpoint!r} is {kind}. A checkpoint of TensorFlow is needed: a prefix "
          "such as model_dir/ckpt-880, whose files end in .index and "
          ".data-00000-of-00001, or the folder of such files."
        )
  folder = os.path.dirname(prefix) or "."
  there = _listing(folder) if tf.io.gfile.isdir(folder) else "no such folder"
  raise UserError(
    f"There is no checkpoint {prefix!r}: {prefix}.index is missing. "
    f"In {folder!r}: {there}."
  )


def check_name(path: str) -> None:
  """Refuses what TensorFlow takes for a pattern: it finds no checkpoint in `runs/a[1]`.

  Raises:
    UserError: If a folder of the path, or the file, has such a name.
  """
  if re.search(r"[*?\[\\]", path):
    raise UserError(
      f"{path!r}: in the path of a checkpoint TensorFlow takes *, ?, [ and \\ for a "
      "pattern, so that it could not be read again. Rename the folder."
    )


def _newest(folder: str) -> str:
  # Not `tf.train.latest_checkpoint`: it takes the folder's name for a pattern.
  try:
    state = tf.train.get_checkpoint_state(folder)
  except ValueError:  # an empty list, as a crash of the machine leaves it
    state = None
  if state and tf.io.gfile.exists(f"{state.model_checkpoint_path}.index"):
    return state.model_checkpoint_path
  if names := _prefixes(folder):
    raise UserError(
      f"The folder {folder!r} holds {shorten(names)}, but its list of checkpoints (the "
      "file 'checkpoint') is missing or corrupt, so which is the newest is unknown. "
      f"Name one, such as {os.path.join(folder, names[-1])}."
    )
  raise UserError(
    f"The folder {folder!r} holds no checkpoint. In it: {_listing(folder)}. "
    "Give the --model_dir of a training run, or a path such as model_dir/ckpt-880."
  )


@contextlib.contextmanager
def corruption_reported(path: str) -> Iterator[None]:
  """Turns TensorFlow's errors while a checkpoint is read into a `UserError`."""
  try:
    yield
  except (tf.errors.OpError, IndexError) as error:  # IndexError: "too short"
    check_name(path)
    folder = os.path.dirname(path) or "."
    raise UserError(
      f"The checkpoint {path!r} is corrupt or incomplete and cannot be read: {error}. "
      f"Use another one, or fetch its files again. In {folder!r}: {_listing(folder)}."
    ) from error


def shapes(path: str) -> Mapping[str, Sequence[int]]:
  """Returns the shapes of a checkpoint's variables by name.

  Args:
    path: Prefix of its files.

  Raises:
    UserError: If it cannot be read.
  """
  with corruption_reported(path):
    return tf.train.load_checkpoint(path).get_variable_to_shape_map()


def _prefixes(folder: str) -> list[str]:
  """Returns the names of a folder's checkpoints, without their suffix, by number."""
  names = tf.io.gfile.listdir(folder)
  prefixes = [n.removesuffix(".index") for n in names if n.endswith(".index")]
  return sorted(prefixes, key=lambda name: (len(name), name))


def _listing(folder: str) -> str:
  """Returns a folder's checkpoints, the newest first, or else what is there."""
  if prefixes := _prefixes(folder):
    return f"the checkpoints {shorten(prefixes[::-1])}"
  names = [name for name in tf.io.gfile.listdir(folder) if not name.startswith(".")]
  return shorten(sorted(names)) or "nothing"
