"""Files that are there whole or not at all, and that a crash of the machine keeps."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from typing import IO, Any

TMP_SUFFIX = ".tmp"


def fsync(path: str | os.PathLike[str]) -> None:
  """Waits until the bytes of a file, or the names in a folder, are on the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
  """Opens a temporary file that replaces `path` when the block ends without an error.

  After an error `path` is what it was, and the temporary file is gone; after a kill the
  next write of `path` overwrites it.

  Args:
    path: File to write; its folder exists. `gs://…` and other schemes of `tf.io.gfile`
      are written through it.
    mode: `"w"` (text, UTF-8) or `"wb"`.

  Yields:
    The open temporary file.
  """
  path = os.fspath(path)
  if "://" in path:
    with _atomic_write_remote(path, mode) as file:
      yield file
    return
  tmp_path = path + TMP_SUFFIX
  encoding = None if "b" in mode else "utf-8"
  with atomic_path(path, tmp_path), open(tmp_path, mode, encoding=encoding) as file:
    yield file


@contextlib.contextmanager
def atomic_path(path: str, tmp_path: str) -> Iterator[None]:
  """Replaces `path` by `tmp_path`, which the block writes, if it ends without an error.

  After an error `path` is what it was, and the temporary file is gone.
  """
  try:
    yield
    fsync(tmp_path)
    os.replace(tmp_path, path)
  except BaseException:
    with contextlib.suppress(FileNotFoundError):
      os.remove(tmp_path)
    raise
  fsync(os.path.dirname(path) or ".")


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[str]:
  """Makes a temporary folder that replaces `path` when the block ends without an error.

  After an error `path` is what it was, and the temporary folder is gone; after a kill
  the next call for `path` clears it.

  Args:
    path: Folder to write; the folders above it are made.

  Yields:
    The temporary folder.

  Raises:
    BlockingIOError: If another process is writing the same folder.
  """
  parent, name = os.path.split(os.path.normpath(os.fspath(path)))
  path = os.path.join(parent, name)
  # A hidden name, that no folder of the user's has; cleared by whom has locked it.
  tmp_path = os.path.join(parent, f".{name}{TMP_SUFFIX}")
  os.makedirs(tmp_path, exist_ok=True)
  descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
  try:
    _lock(descriptor, path)
    _clear(tmp_path)
    try:
      yield tmp_path
      if os.path.isdir(path):
        shutil.rmtree(path)
      os.replace(tmp_path, path)
    except BaseException:
      shutil.rmtree(tmp_path, ignore_errors=True)
      raise
  finally:
    os.close(descriptor)
  fsync(os.path.dirname(path) or ".")


@contextlib.contextmanager
def locked_folder(path: str | os.PathLike[str]) -> Iterator[None]:
  """Makes a folder and keeps other processes out of it as long as the block lasts.

  After an error a folder that was made and holds nothing is gone.

  Args:
    path: Folder; those above it are made.

  Raises:
    BlockingIOError: If another process has locked it.
  """
  path = os.fspath(path)
  is_new = not os.path.isdir(path)
  os.makedirs(path, exist_ok=True)
  descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
  try:
    _lock(descriptor, path)
    yield
  except BaseException:
    if is_new:
      with contextlib.suppress(OSError):  # it holds something
        os.rmdir(path)
    raise
  finally:
    os.close(descriptor)


def _lock(descriptor: int, path: str) -> None:
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    raise BlockingIOError(
      error.errno, "another process is writing it; wait for its end", path
    ) from error
  except OSError:  # a file system without locks
    return


def _clear(folder: str) -> None:
  for entry in os.scandir(folder):
    if entry.is_dir(follow_symlinks=False):
      shutil.rmtree(entry.path)
    else:
      os.remove(entry.path)


@contextlib.contextmanager
def _atomic_write_remote(path: str, mode: str) -> Iterator[IO[Any]]:
  import tensorflow as tf  # only here: reading files must not cost its import

  tmp_path = path + TMP_SUFFIX
  try:
    with tf.io.gfile.GFile(tmp_path, mode) as file:
      yield file
  except BaseException:
    with contextlib.suppress(tf.errors.NotFoundError):
      tf.io.gfile.remove(tmp_path)
    raise
  tf.io.gfile.rename(tmp_path, path, overwrite=True)
