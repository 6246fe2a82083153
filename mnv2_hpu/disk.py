"""Files that a crash of the machine must not lose."""

import os


def flush(path: str | os.PathLike[str]) -> None:
  """Waits until the bytes of a file, or the names in a folder, are on the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
