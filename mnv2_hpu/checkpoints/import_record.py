"""`import.json`: what imported weights expect of a network that starts from them."""

import json
import os
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from mnv2_hpu.errors import UserError

FILE = "import.json"
GIN_FILE = "fine_tune.gin"  # trains from the weights


def find(checkpoint: str) -> dict[str, Any] | None:
  """Returns the content of the file beside a checkpoint; None where there is none.

  Args:
    checkpoint: Prefix of a checkpoint's files, or its folder.

  Raises:
    UserError: If the file cannot be read.
  """
  folder = checkpoint if tf.io.gfile.isdir(checkpoint) else os.path.dirname(checkpoint)
  path = os.path.join(folder, FILE)
  if not tf.io.gfile.exists(path):
    return None
  try:
    with tf.io.gfile.GFile(path) as file:
      content = json.load(file)
  except (tf.errors.OpError, ValueError, RecursionError) as error:
    raise UserError(f"{path!r} cannot be read: {error}. Import again.") from error
  if not isinstance(content, dict):
    raise UserError(f"{path!r} holds no JSON object. Import again.")
  return content


def check_agrees(checkpoint: str, **given: Any) -> None:
  """Refuses a start from weights that the network would turn into another function.

  Args:
    checkpoint: Value of `init_checkpoint`.
    **given: Values of this network by their names in `import.json`.

  Raises:
    UserError: If one differs; both values are named.
  """
  content = find(checkpoint) or {}
  for name, value in given.items():
    if name in content and content[name] != value:
      raise UserError(
        f"init_checkpoint is {checkpoint!r}, whose weights expect {name} = "
        f"{content[name]!r}; this network has {name} = {value!r} and would be another "
        f"function. Use the fine_tune.gin beside them, or bind {name} = "
        f"{content[name]!r}."
      )


def start_line(folder: str) -> str:
  """Returns the line of `GIN_FILE` that says where the weights are."""
  return f"START = {folder!r}"


def find_moved(checkpoint: str, gin_files: Iterable[str]) -> str:
  """Returns `init_checkpoint`, found again if its folder was moved with its gin file.

  Args:
    checkpoint: Value of `init_checkpoint`; empty where there is none.
    gin_files: Gin files of the training. One that an import has written, and that says
      where the weights were, has them beside it.
  """
  if not checkpoint or "://" in checkpoint or os.path.exists(checkpoint):
    return checkpoint
  for path in gin_files:
    folder = os.path.dirname(os.path.abspath(path))
    is_import = os.path.isfile(path) and os.path.isfile(os.path.join(folder, FILE))
    if is_import and os.path.basename(path) == GIN_FILE:
      with open(path, encoding="utf-8") as file:
        if start_line(checkpoint) in file.read().splitlines():
          return folder
  return checkpoint
